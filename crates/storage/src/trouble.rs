//! What goes wrong with places, told apart exactly.

use std::error::Error as StdError;
use std::io;

use backup_core::{Error, ErrorKind};

/// What went wrong with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// The file system is full, or the quota is used up.
    #[error("no space left")]
    NoSpace,
    /// The file system can only be read.
    #[error("the file system is read-only")]
    ReadOnly,
    /// Permissions refuse it.
    #[error("permission denied")]
    NoPermission,
    /// A folder is needed where something else is.
    #[error("is not a folder")]
    NotAFolder,
    /// The file system cannot publish a file without the danger of replacing one.
    #[error("the file system can neither rename without replacing nor make hard links")]
    NoSafeRename,
    /// Another file system is mounted inside the destination.
    #[error("another file system is mounted inside the destination")]
    OtherFileSystem,
    /// An object of this name exists.
    #[error("an object of this name exists already")]
    Taken,
    /// There is no such object.
    #[error("no such object")]
    NoSuchObject,
    /// The object is in an archive, from which it has to be fetched first.
    #[error("the object is in an archive")]
    Archived,
    /// The server has removed the unfinished upload.
    #[error("the unfinished upload is no longer there")]
    UploadGone,
    /// The object is no longer the version that was looked at.
    #[error("is no longer the version that was looked at")]
    Changed,
    /// The bucket does not exist.
    #[error("the bucket does not exist")]
    NoSuchBucket,
    /// The access key or its secret is wrong.
    #[error("the credentials were refused")]
    BadCredentials,
    /// No access key was found.
    #[error("no credentials were found")]
    NoCredentials,
    /// The bucket is in another region.
    #[error("the region is not the bucket's")]
    WrongRegion,
    /// The clocks differ too much for a signature.
    #[error("the server refuses our clock")]
    ClockSkew,
    /// The credentials are good, and do not allow this.
    #[error("the credentials do not allow this")]
    AccessDenied,
    /// The place received other bytes than were sent.
    #[error("the server received other bytes than were sent")]
    Corrupted,
    /// Nobody listens there.
    #[error("the connection was refused")]
    ConnectionRefused,
    /// The name has no address, or there is no way to it.
    #[error("the server cannot be reached")]
    Unreachable,
    /// The connection broke.
    #[error("the connection broke")]
    ConnectionLost,
    /// The certificate is not one we trust.
    #[error("the server's certificate is not trusted")]
    Certificate,
    /// The server's host key is not among those we know.
    #[error("the server's host key is not known")]
    HostKeyUnknown,
    /// The server's host key is not the one we know.
    #[error("the server's host key is not the one that is known")]
    HostKeyChanged,
    /// A program that is needed is not installed.
    #[error("a program is missing")]
    NoTool,
    /// The SSH client does not understand its own configuration.
    #[error("the SSH client's configuration is wrong")]
    BadSshConfiguration,
    /// No answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The server asks for fewer requests.
    #[error("the server is overloaded")]
    Overloaded,
    /// The server cannot do this.
    #[error("the server does not support this request")]
    NotSupported,
    /// Anything else.
    #[error("failed")]
    Other,
}

impl Trouble {
    /// The kind under which it crosses the port.
    #[must_use]
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::NotAFolder | Self::NoSuchBucket | Self::WrongRegion | Self::Certificate => {
                ErrorKind::Config
            }
            Self::HostKeyUnknown | Self::NoTool | Self::BadSshConfiguration => ErrorKind::Config,
            Self::HostKeyChanged => ErrorKind::Denied,
            Self::NoPermission | Self::ReadOnly => ErrorKind::Denied,
            Self::BadCredentials | Self::NoCredentials | Self::ClockSkew | Self::AccessDenied => {
                ErrorKind::Denied
            }
            Self::NoSafeRename | Self::OtherFileSystem | Self::NotSupported | Self::Archived => {
                ErrorKind::Unsupported
            }
            Self::Taken => ErrorKind::Conflict,
            Self::NoSuchObject => ErrorKind::NotFound,
            Self::Changed | Self::Corrupted => ErrorKind::Integrity,
            Self::TimedOut => ErrorKind::TimedOut,
            Self::NoSpace | Self::ConnectionRefused | Self::Unreachable | Self::ConnectionLost => {
                ErrorKind::Unavailable
            }
            Self::Overloaded | Self::UploadGone | Self::Other => ErrorKind::Unavailable,
        }
    }

    /// What to try.
    #[must_use]
    pub fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::NoSpace => "free space or choose another destination; nothing of this object was kept",
            Self::ReadOnly => "mount it for writing or choose another destination",
            Self::NoPermission => "give the user that runs this read and write permission on the folder",
            Self::NotAFolder => "give a folder as the destination",
            Self::NoSafeRename => "choose a file system such as ext4, xfs, btrfs or zfs",
            Self::OtherFileSystem => "use the mounted folder itself as the destination",
            Self::Taken => "objects are never replaced; a new run uses a new name",
            Self::NoSuchObject => return None,
            Self::Archived => "restore it from its archive storage class first, then run again",
            Self::UploadGone => {
                "check the bucket's rule that aborts incomplete uploads: it must leave a backup's time; then run again"
            }
            Self::Changed => "objects are never replaced by this program: find out who changed it",
            Self::NoSuchBucket => "create the bucket, or check its name, the endpoint and the region",
            Self::BadCredentials => "check the access key, its secret and the session token",
            Self::NoCredentials => "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
            Self::WrongRegion => "add region=NAME of the bucket to the destination, or set AWS_REGION",
            Self::ClockSkew => "set this machine's clock",
            Self::AccessDenied => "allow it in the policy of the key or the bucket",
            Self::Corrupted => "check the memory and the network of this machine, then run again",
            Self::ConnectionRefused => "check that the server runs, and the endpoint's host and port",
            Self::Unreachable => "check the endpoint's name and the network",
            Self::ConnectionLost => "check the network and run again",
            Self::Certificate => "name the authority's certificate with ca_file=, or check the endpoint",
            Self::HostKeyUnknown => "add the host key to the file that known_hosts= names",
            Self::HostKeyChanged => {
                "somebody may be listening: ask whoever runs the server whether its key was replaced before you \
                 change the file of known hosts"
            }
            Self::NoTool => "install it",
            Self::BadSshConfiguration => "check ~/.ssh/config and /etc/ssh/ssh_config with ssh -G HOST",
            Self::TimedOut => "check the network and the server, then run again",
            Self::Overloaded => "run again later",
            Self::NotSupported => "check that the server speaks S3, and which version it is",
            Self::Other => return None,
        })
    }

    /// This trouble with `subject`, while we were `doing` something.
    pub(crate) fn with(self, subject: impl Into<String>, doing: &str) -> Error {
        let what = if doing.is_empty() { self.to_string() } else { format!("{doing}: {self}") };
        let error = Error::new(self.kind(), subject, what);
        match self.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// What an error of the operating system means.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::PermissionDenied => Self::NoPermission,
            io::ErrorKind::NotADirectory => Self::NotAFolder,
            io::ErrorKind::CrossesDevices => Self::OtherFileSystem,
            io::ErrorKind::AlreadyExists => Self::Taken,
            io::ErrorKind::NotFound => Self::NoSuchObject,
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self::ConnectionLost,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Other,
        }
    }

    /// What an error of the S3 client means.
    pub(crate) fn of_opendal(error: &opendal::Error) -> Self {
        use opendal::ErrorKind as Kind;
        if let Some(trouble) = s3_code(error).and_then(Self::of_s3_code) {
            return trouble;
        }
        match error.kind() {
            Kind::NotFound => Self::NoSuchObject,
            Kind::PermissionDenied => Self::AccessDenied,
            Kind::AlreadyExists => Self::Taken,
            Kind::RateLimited => Self::Overloaded,
            Kind::Unsupported => Self::NotSupported,
            Kind::ConditionNotMatch | Kind::Conflict => Self::Changed,
            _ => Self::of_chain(error),
        }
    }

    pub(crate) fn of_s3_code(code: &str) -> Option<Self> {
        Some(match code {
            "NoSuchBucket" => Self::NoSuchBucket,
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" => {
                Self::BadCredentials
            }
            "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
                Self::WrongRegion
            }
            "NoSuchUpload" => Self::UploadGone,
            "InvalidObjectState" => Self::Archived,
            "RequestTimeTooSkewed" => Self::ClockSkew,
            "AccessDenied" | "AllAccessDisabled" => Self::AccessDenied,
            "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch" => {
                Self::Corrupted
            }
            "SlowDown" | "TooManyRequests" | "ServiceUnavailable" => Self::Overloaded,
            "NotImplemented" => Self::NotSupported,
            "QuotaExceeded" | "InsufficientStorage" | "StorageFull" => Self::NoSpace,
            _ => return None,
        })
    }

    /// Looks for the operating system's own error among the causes.
    pub(crate) fn of_chain(error: &(dyn StdError + 'static)) -> Self {
        let mut next = Some(error);
        let mut found = Self::Other;
        while let Some(cause) = next {
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                let trouble = Self::of_io(io);
                if trouble != Self::Other {
                    return trouble;
                }
                // An error wrapped into an `io::Error` is not among its sources.
                if let Some(inner) = io.get_ref() {
                    let trouble = Self::of_chain(inner);
                    if trouble != Self::Other {
                        return trouble;
                    }
                }
            }
            let text = cause.to_string();
            if text.contains("invalid peer certificate") {
                return Self::Certificate;
            }
            if text.contains("failed to load signing credential") {
                return Self::NoCredentials;
            }
            if text.contains("dns error") {
                found = Self::Unreachable;
            }
            if text.contains("connection closed") && found == Self::Other {
                found = Self::ConnectionLost;
            }
            next = cause.source();
        }
        found
    }
}

/// The code of an S3 error document, which `opendal` keeps in its message.
fn s3_code(error: &opendal::Error) -> Option<&str> {
    let (_, rest) = error.message().split_once("code: \"")?;
    rest.split_once('"').map(|(code, _)| code)
}

/// An error of the operating system at the port.
pub(crate) fn from_io(subject: impl Into<String>, doing: &str, error: io::Error) -> Error {
    let trouble = Trouble::of_io(&error);
    let found = if trouble == Trouble::Other {
        Error::new(trouble.kind(), subject, format!("{doing}: {error}"))
    } else {
        trouble.with(subject, doing)
    };
    found.with_source(error)
}

/// An error of the S3 client at the port. Its own context is left out: it repeats URLs and headers.
pub(crate) fn from_opendal(subject: impl Into<String>, doing: &str, error: &opendal::Error) -> Error {
    Trouble::of_opendal(error).with(subject, doing).with_source(said(error))
}

/// What the S3 client and its causes say, in one line.
fn said(error: &opendal::Error) -> String {
    let mut parts = vec![error.message().chars().take(400).collect::<String>()];
    let mut next = StdError::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        next = cause.source();
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_errors_have_their_kind_and_a_hint() {
        let table = [
            (rustix::io::Errno::NOSPC, Trouble::NoSpace, ErrorKind::Unavailable),
            (rustix::io::Errno::DQUOT, Trouble::NoSpace, ErrorKind::Unavailable),
            (rustix::io::Errno::ROFS, Trouble::ReadOnly, ErrorKind::Denied),
            (rustix::io::Errno::ACCESS, Trouble::NoPermission, ErrorKind::Denied),
            (rustix::io::Errno::NOTDIR, Trouble::NotAFolder, ErrorKind::Config),
            (rustix::io::Errno::CONNREFUSED, Trouble::ConnectionRefused, ErrorKind::Unavailable),
            (rustix::io::Errno::TIMEDOUT, Trouble::TimedOut, ErrorKind::TimedOut),
        ];
        for (errno, trouble, kind) in table {
            let error = from_io("/srv/x", "writing", io::Error::from(errno));
            assert_eq!((Trouble::of_io(&errno.into()), error.kind()), (trouble, kind));
            assert!(error.hint().is_some());
            assert_eq!(error.to_string(), format!("/srv/x: writing: {trouble}"));
        }
    }

    #[test]
    fn the_code_of_a_server_s_answer_decides() {
        let answer = |code: &str| {
            opendal::Error::new(
                opendal::ErrorKind::PermissionDenied,
                format!("S3Error {{ code: \"{code}\", message: \"m\", resource: \"\", request_id: \"\" }}"),
            )
        };
        assert_eq!(Trouble::of_opendal(&answer("SignatureDoesNotMatch")), Trouble::BadCredentials);
        assert_eq!(Trouble::of_opendal(&answer("RequestTimeTooSkewed")), Trouble::ClockSkew);
        assert_eq!(Trouble::of_opendal(&answer("InvalidObjectState")), Trouble::Archived);
        assert_eq!(Trouble::of_opendal(&answer("NoSuchUpload")), Trouble::UploadGone);
        assert_eq!(Trouble::of_opendal(&answer("Unheard")), Trouble::AccessDenied);
    }
}
