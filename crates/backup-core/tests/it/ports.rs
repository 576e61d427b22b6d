//! Every port can be held as `Arc<dyn ...>` and sent to another thread.

use std::sync::Arc;

use backup_core::{
    Auditor, Catalog, Clock, Decryptor, Dumper, Encryptor, Inspector, Ledger, Notifier, Progress, Remover,
    Restorer, Signer, Sink, Source, Trust, Upload,
};

fn held<T: ?Sized + Send + Sync + 'static>() {
    let _: Option<Arc<T>> = None;
}

#[test]
fn every_port_is_object_safe_and_shared_between_threads() {
    held::<dyn Auditor>();
    held::<dyn Catalog>();
    held::<dyn Clock>();
    held::<dyn Decryptor>();
    held::<dyn Dumper>();
    held::<dyn Encryptor>();
    held::<dyn Inspector>();
    held::<dyn Ledger>();
    held::<dyn Notifier>();
    held::<dyn Progress>();
    held::<dyn Remover>();
    held::<dyn Restorer>();
    held::<dyn Signer>();
    held::<dyn Sink>();
    held::<dyn Source>();
    held::<dyn Trust>();
    fn sent<T: ?Sized + Send>() {}
    sent::<Box<dyn Upload>>();
}
