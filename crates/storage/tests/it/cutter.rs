//! A relay that cuts connections after so many bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Which way is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the server.
    Up,
    /// From the server.
    Down,
}

/// The relay; ends when dropped.
#[derive(Debug)]
pub(crate) struct Cutter {
    /// `127.0.0.1:port`.
    pub(crate) address: String,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Debug)]
struct State {
    upstream: String,
    way: Way,
    /// Bytes until the next cut.
    left: AtomicU64,
    /// What `left` is set to after a cut; 0 for no more cuts.
    next: AtomicU64,
    cuts: AtomicUsize,
}

impl Cutter {
    /// In front of the server at `upstream`: cuts once after `first` bytes, and then after every `next` bytes if that
    /// is not 0.
    pub(crate) async fn start(upstream: &str, way: Way, first: u64, next: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            upstream: upstream.trim_start_matches("http://").to_owned(),
            way,
            left: AtomicU64::new(first),
            next: AtomicU64::new(next),
            cuts: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move { state.relay(client).await });
            }
        });
        Self { address, state, task: task.abort_handle() }
    }

    /// How many connections were cut.
    pub(crate) fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// Cuts after `bytes` more.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.state.left.store(bytes, Ordering::SeqCst);
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    async fn relay(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.upstream).await else { return };
        let (mut client_read, mut client_write) = client.into_split();
        let (mut server_read, mut server_write) = server.into_split();
        let up = async {
            let mut piece = vec![0; 1 << 16];
            while let Ok(got @ 1..) = client_read.read(&mut piece).await {
                if self.cut(Way::Up, got) || server_write.write_all(&piece[..got]).await.is_err() {
                    break;
                }
            }
        };
        let down = async {
            let mut piece = vec![0; 1 << 16];
            while let Ok(got @ 1..) = server_read.read(&mut piece).await {
                if self.cut(Way::Down, got) || client_write.write_all(&piece[..got]).await.is_err() {
                    break;
                }
            }
        };
        // Both ends see the end of either.
        tokio::select! { () = up => {}, () = down => {} }
    }

    fn cut(&self, way: Way, got: usize) -> bool {
        if way != self.way {
            return false;
        }
        let left = self.left.load(Ordering::SeqCst);
        if left == u64::MAX {
            return false;
        }
        if left > got as u64 {
            self.left.store(left - got as u64, Ordering::SeqCst);
            return false;
        }
        let next = self.next.load(Ordering::SeqCst);
        self.left.store(if next == 0 { u64::MAX } else { next }, Ordering::SeqCst);
        self.cuts.fetch_add(1, Ordering::SeqCst);
        true
    }
}
