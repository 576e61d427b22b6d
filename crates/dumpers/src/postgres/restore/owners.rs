//! Owners and privileges: kept where their roles exist.

use super::super::config::Owners;
use super::PostgresRestorer;
use super::head::Head;
use super::look::Looked;

impl PostgresRestorer {
    /// Whether owners and privileges are left out, and what there is to say about it.
    pub(super) fn leaves_owners_out(&self, looked: &Looked, head: &Head, warnings: &mut Vec<String>) -> bool {
        match self.config.owners {
            Owners::Keep => false,
            Owners::Drop => true,
            Owners::Auto => {
                let roles = &head.contents.roles;
                let missing: Vec<String> =
                    roles.difference(&looked.roles).map(|role| format!("{role:?}")).collect();
                if !missing.is_empty() {
                    warnings.push(format!(
                        "owners and privileges were left out, because these roles do not exist here: {}",
                        missing.join(", ")
                    ));
                    return true;
                }
                let others = roles.iter().any(|role| *role != looked.user);
                if others && !looked.superuser {
                    warnings.push(format!(
                        "owners and privileges were left out, because {:?} is no superuser",
                        looked.user
                    ));
                    return true;
                }
                false
            }
        }
    }
}
