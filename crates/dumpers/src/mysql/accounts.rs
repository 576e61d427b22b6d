//! Accounts, roles and what they were granted, as statements before a dump.

use backup_core::Context;

use super::error::MysqlError;
use super::names::identifier;
use super::query::Sql;
use super::tools::Flavour;

/// Accounts that every server makes for itself.
const OWN: [&str; 4] = ["mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys"];

/// How often the accounts are read again when one of them goes away meanwhile.
const ATTEMPTS: usize = 5;

/// Statements that make every account that is missing, and grant what each was granted. An account
/// that is there keeps its password.
pub(super) async fn statements(cx: &Context, sql: &Sql, flavour: Flavour) -> Result<String, MysqlError> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        match read(cx, sql, flavour).await {
            Err(MysqlError::Tool(error)) if attempts > 0 && is_gone(error.stderr()) => {}
            outcome => return outcome,
        }
    }
}

/// Whether an account was dropped after it was listed.
fn is_gone(said: &str) -> bool {
    ["ERROR 1133 ", "ERROR 1141 ", "ERROR 1396 ", "ERROR 3162 "].iter().any(|code| said.contains(code))
}

async fn read(cx: &Context, sql: &Sql, flavour: Flavour) -> Result<String, MysqlError> {
    let role = match flavour {
        Flavour::MariaDb => "is_role",
        // Its roles are accounts without a password.
        Flavour::MySql => "'N'",
    };
    let list = format!("SELECT User, Host, {role} FROM mysql.user ORDER BY 3 DESC, 1, 2");
    let (mut creates, mut ask) = (String::new(), String::new());
    if flavour == Flavour::MySql {
        // Hashes are bytes of any value.
        ask.push_str("SET SESSION print_identified_with_as_hex = ON;\n");
    }
    let (mut users, mut grants) = (String::new(), String::new());
    for row in sql.ask(cx, &list).await? {
        let [user, host, is_role] = row.as_slice() else {
            return Err(MysqlError::Answer("a list of accounts".to_owned()));
        };
        // The administrator of a server stays its own.
        if OWN.contains(&&**user) || (user == "root" && host == "localhost") {
            continue;
        }
        let account = if is_role == "Y" {
            if user != "PUBLIC" {
                creates.push_str(&format!("CREATE ROLE IF NOT EXISTS {};\n", identifier(user)));
            }
            if user == "PUBLIC" { user.clone() } else { identifier(user) }
        } else {
            let account = format!("{}@{}", identifier(user), identifier(host));
            users.push_str(&format!("SHOW CREATE USER {account};\n"));
            account
        };
        grants.push_str(&format!("SHOW GRANTS FOR {account};\n"));
    }
    let (mut later, mut granted) = (String::new(), String::new());
    for row in sql.ask(cx, &format!("{ask}{users}")).await? {
        let statement = row.into_iter().next().unwrap_or_default();
        let Some(rest) = statement.strip_prefix("CREATE USER ") else { continue };
        let (rest, default) = without_default_role(rest);
        creates.push_str(&format!("CREATE USER IF NOT EXISTS {rest};\n"));
        if let Some(roles) = default {
            let account = account_of(rest.as_str());
            later.push_str(&format!("SET DEFAULT ROLE {roles} TO {account};\n"));
        }
    }
    for row in sql.ask(cx, &grants).await? {
        let statement = row.into_iter().next().unwrap_or_default();
        if statement.starts_with("GRANT ") || statement.starts_with("REVOKE ") {
            granted.push_str(&format!("{};\n", without_password(&statement)));
        } else if statement.starts_with("SET DEFAULT ROLE ") {
            later.push_str(&format!("{statement};\n"));
        }
    }
    Ok(format!("-- Strongroom: accounts\n{creates}{granted}{later}-- Strongroom: end of accounts\n"))
}

/// MariaDB repeats the password in a grant, where it would replace that of an account that is there.
fn without_password(grant: &str) -> String {
    match grant.split_once(" IDENTIFIED ") {
        Some((start, rest)) if rest.ends_with(" WITH GRANT OPTION") => format!("{start} WITH GRANT OPTION"),
        Some((start, _)) => start.to_owned(),
        None => grant.to_owned(),
    }
}

/// MySQL names the default role of an account where the role may not exist yet.
fn without_default_role(statement: &str) -> (String, Option<String>) {
    const CLAUSE: &str = " DEFAULT ROLE ";
    match statement.split_once(CLAUSE).and_then(|(start, rest)| Some((start, rest.split_once(" REQUIRE ")?)))
    {
        Some((start, (roles, rest))) => (format!("{start} REQUIRE {rest}"), Some(roles.to_owned())),
        None => (statement.to_owned(), None),
    }
}

/// `` `user`@`host` `` at the beginning of a statement.
fn account_of(statement: &str) -> &str {
    let end = statement.find(" IDENTIFIED ").or_else(|| statement.find(" REQUIRE "));
    &statement[..end.unwrap_or(statement.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_default_roles_stand_where_they_do_no_harm() {
        let grant = "GRANT USAGE ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*AB' WITH GRANT OPTION";
        assert_eq!(without_password(grant), "GRANT USAGE ON *.* TO `u`@`%` WITH GRANT OPTION");
        let create =
            "`u`@`%` IDENTIFIED WITH 'x' AS 0x24 DEFAULT ROLE `r`@`%` REQUIRE NONE PASSWORD EXPIRE DEFAULT";
        let (statement, roles) = without_default_role(create);
        assert_eq!(statement, "`u`@`%` IDENTIFIED WITH 'x' AS 0x24 REQUIRE NONE PASSWORD EXPIRE DEFAULT");
        assert_eq!(roles.as_deref(), Some("`r`@`%`"));
        assert_eq!(account_of(&statement), "`u`@`%`");
    }
}
