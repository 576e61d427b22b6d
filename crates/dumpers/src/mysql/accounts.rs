//! Accounts, roles and what they were granted, as statements before a dump.

use backup_core::Context;

use super::error::MysqlError;
use super::names::identifier;
use super::query::Sql;
use super::tools::Flavour;

/// Accounts that every server makes for itself.
const OWN: [&str; 4] = ["mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys"];

/// Statements that make every account that is missing, and grant what each was granted. An account
/// that is there keeps its password. Beside them, the accounts that had to be left out.
pub(super) async fn statements(
    cx: &Context,
    sql: &Sql,
    flavour: Flavour,
) -> Result<(String, Vec<String>), MysqlError> {
    let role = match flavour {
        Flavour::MariaDb => "is_role",
        // Its roles are accounts without a password.
        Flavour::MySql => "'N'",
    };
    let list = format!("SELECT User, Host, {role} FROM mysql.user ORDER BY 3 DESC, 1, 2");
    let (mut creates, mut granted, mut later) = (String::new(), String::new(), String::new());
    let mut left_out = Vec::new();
    for row in sql.ask(cx, &list).await? {
        let [user, host, is_role] = row.as_slice() else {
            return Err(MysqlError::Answer("a list of accounts".to_owned()));
        };
        // The administrator of a server stays its own.
        if OWN.contains(&&**user) || user == "root" {
            continue;
        }
        let role = is_role == "Y";
        let account = match (role, user.as_str()) {
            (true, "PUBLIC") => user.clone(),
            (true, _) => identifier(user),
            (false, _) => format!("{}@{}", identifier(user), identifier(host)),
        };
        if role && user != "PUBLIC" {
            creates.push_str(&format!("CREATE ROLE IF NOT EXISTS {account};\n"));
        }
        let mut ask = String::new();
        if flavour == Flavour::MySql {
            // Hashes are bytes of any value.
            ask.push_str("SET SESSION print_identified_with_as_hex = ON;\n");
        }
        if !role {
            ask.push_str(&format!("SHOW CREATE USER {account};\n"));
        }
        ask.push_str(&format!("SHOW GRANTS FOR {account}"));
        let shown = match sql.ask(cx, &ask).await {
            // Dropped meanwhile, or named by a host that a server without name resolution passes over.
            Err(MysqlError::Tool(error)) if is_gone(error.stderr()) => {
                creates.push_str(&format!(
                    "-- Not in force, left out: {}\n",
                    account.replace(['\n', '\r'], " ")
                ));
                left_out.push(account);
                continue;
            }
            shown => shown?,
        };
        for statement in shown.into_iter().filter_map(|row| row.into_iter().next()) {
            if let Some(rest) = statement.strip_prefix("CREATE USER ") {
                let (rest, default) = without_default_role(rest);
                creates.push_str(&format!("CREATE USER IF NOT EXISTS {rest};\n"));
                if let Some(roles) = default {
                    later.push_str(&format!("SET DEFAULT ROLE {roles} TO {account};\n"));
                }
            } else if statement.starts_with("GRANT ") || statement.starts_with("REVOKE ") {
                granted.push_str(&format!("{};\n", without_password(&statement)));
            } else if statement.starts_with("SET DEFAULT ROLE ") {
                later.push_str(&format!("{statement};\n"));
            }
        }
    }
    let text = format!("-- Strongroom: accounts\n{creates}{granted}{later}-- Strongroom: end of accounts\n");
    Ok((text, left_out))
}

/// Whether there is no such account.
fn is_gone(said: &str) -> bool {
    ["ERROR 1133 ", "ERROR 1141 ", "ERROR 1396 ", "ERROR 3162 "].iter().any(|code| said.contains(code))
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
    }
}
