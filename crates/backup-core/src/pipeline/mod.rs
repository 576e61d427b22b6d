//! What joins the ports: storing, backing up, restoring, verifying. The only caller of
//! [`Upload::commit`](crate::Upload::commit).
