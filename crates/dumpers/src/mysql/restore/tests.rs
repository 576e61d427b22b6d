//! Names of targets.

use super::*;

#[test]
fn temporary_names_fit_and_are_known_again() {
    assert_eq!(temporary("orders", "1a2b3c4d"), "orders_strongroom_1a2b3c4d");
    let long = temporary(&"ü".repeat(64), "1a2b3c4d");
    assert!(long.chars().count() == NAME_MAX && long.ends_with("ü_strongroom_1a2b3c4d"), "{long}");
    assert!(
        is_temporary(&long)
            && !is_temporary("x_strongroom_1a2b3c4")
            && !is_temporary("a_strongroom_XXXXXXXX")
    );
}

#[test]
fn a_target_needs_a_usable_name() {
    let long = MysqlConfig::from_url(&format!("mysql://h/{}", "x".repeat(65))).unwrap();
    assert_eq!(MysqlRestorer::new(&long).unwrap_err().kind(), ErrorKind::Config);
    let server = MysqlConfig::from_url("mysql://h/").unwrap();
    assert!(MysqlRestorer::new(&server).unwrap().target.is_none());
}
