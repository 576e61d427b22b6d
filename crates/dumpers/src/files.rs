//! A plain file as a target for a dump of any format.

use std::path::PathBuf;

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, RestorePlan, RestoreRequest, Restored, Restorer, Result, Stage,
};

use crate::publish::{Draft, blocking, check_new, tidying};

/// Writes the bytes of a dump to a new file of mode 0600, which appears only when it is whole.
#[derive(Debug)]
pub struct FileRestorer {
    path: PathBuf,
}

impl FileRestorer {
    /// The file that will exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait]
impl Restorer for FileRestorer {
    /// Every format: the bytes are kept as they are.
    fn accepts(&self, _format: &DumpFormat) -> bool {
        true
    }

    async fn plan(&self, _cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let path = self.path.clone();
        let (len, existing) = (request.source_len, request.into_existing);
        let mut steps = blocking(move || {
            check_new(&path, len, existing)?;
            Ok(tidying(&path))
        })
        .await?;
        let name = self.path.display();
        steps.push(format!("write the {} dump to a hidden file beside {name}", request.format));
        steps.push(format!("after its verified end give it the name {name}"));
        Ok(RestorePlan::looked_at(request, name.to_string(), steps))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        let (draft, bytes) =
            Draft::write(cx, &self.path, dump).await.map_err(|error| error.at(Stage::Restore))?;
        let replace = plan.request().into_existing;
        blocking(move || if replace { draft.replace() } else { draft.publish() })
            .await
            .map_err(|error| error.at(Stage::Restore))?;
        Ok(Restored { target: plan.target().to_owned(), bytes, warnings: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use backup_core::testing::{known, restorer_suite};
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn a_file_target_obeys_the_suite() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump.bin");
        let whole = Bytes::from(vec![3; 300_000]);
        let format = DumpFormat::new("raw");
        let restorer = FileRestorer::new(&path);
        restorer_suite(&restorer, &format, &whole, async || path.exists()).await;
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no hidden file is left");
    }

    #[tokio::test]
    async fn an_allowed_file_is_replaced_and_a_late_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump.bin");
        let format = DumpFormat::new("raw");
        let restorer = FileRestorer::new(&path);
        let cx = Context::new();
        let request =
            |into_existing| RestoreRequest { format: format.clone(), source_len: None, into_existing };
        let plan = restorer.plan(&cx, request(false)).await.unwrap();
        std::fs::write(&path, "came meanwhile").unwrap();
        let error = restorer.restore(&cx, plan, known(&format, &Bytes::from("new"))).await.unwrap_err();
        assert_eq!(error.kind(), backup_core::ErrorKind::Conflict);
        assert_eq!(std::fs::read(&path).unwrap(), b"came meanwhile");
        let plan = restorer.plan(&cx, request(true)).await.unwrap();
        restorer.restore(&cx, plan, known(&format, &Bytes::from("new"))).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }
}
