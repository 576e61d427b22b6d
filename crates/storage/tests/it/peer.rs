//! A server that answers as a test tells it to.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::proxy::{length, read_head};

/// One request: its head and its body.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// What is answered: a status line without its version, headers, a body. `None` breaks the connection.
pub(crate) type Said = Option<(String, Vec<u8>)>;

/// The server; ends when dropped.
pub(crate) struct Peer {
    pub(crate) endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: AbortHandle,
}

impl Asked {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl Peer {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&asked), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                tokio::spawn(async move {
                    let Ok(Some((head, mut body))) = read_head(&mut client).await else { return };
                    let len = length(&head);
                    while body.len() < len {
                        let mut more = vec![0; (len - body.len()).min(1 << 16)];
                        match client.read(&mut more).await {
                            Ok(got) if got > 0 => body.extend_from_slice(&more[..got]),
                            _ => return,
                        }
                    }
                    let request = Asked { head, body };
                    let said = answer(&request);
                    seen.lock().unwrap().push(request);
                    let Some((head, body)) = said else { return };
                    let head = format!(
                        "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        body.len()
                    );
                    // A client that is gone needs no answer.
                    let _ = client.write_all(&[head.as_bytes(), &body].concat()).await;
                    let _ = client.shutdown().await;
                });
            }
        });
        Self { endpoint, asked, task: task.abort_handle() }
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
