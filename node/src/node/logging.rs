//! The log: lines to stderr as text or JSON, with a filter that can change while the node runs.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::Duration,
};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::config::LogConfig;

/// Environment variable with the filter.
pub const FILTER_VARIABLE: &str = "ZGPU_LOG";
/// What is logged when nothing else is said.
const DEFAULT_FILTER: &str = "warn,zgpu_node=info";
/// Pause between two looks at the file with the filter.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Longest file with a filter, in bytes.
const MAX_FILTER_BYTES: u64 = 4096;

/// Follows the file with the filter.
pub struct Filter {
    file: PathBuf,
    handle: reload::Handle<EnvFilter, Registry>,
}

/// Starts to log, once in a process. What is returned has to run for the filter's file to be followed; there is none when
/// the variable has the filter.
pub fn start(config: &LogConfig) -> Option<Filter> {
    let variable = std::env::var(FILTER_VARIABLE).ok().map(EnvFilter::try_new);
    let (from_variable, refused) = match variable.transpose() {
        Ok(filter) => (filter, None),
        Err(error) => (None, Some(error)),
    };
    let is_fixed = from_variable.is_some();
    let from_file = || config.filter_file.as_deref().and_then(|path| read(path).ok()?);
    let filter = from_variable.or_else(from_file).unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    if config.json {
        registry.with(lines.json().flatten_event(true)).init();
    } else {
        registry.with(lines.with_target(false).with_ansi(io::stderr().is_terminal())).init();
    }
    if let Some(error) = refused {
        tracing::warn!("{FILTER_VARIABLE} is no filter and is left out: {error}");
    }
    let file = config.filter_file.clone().filter(|_| !is_fixed)?;
    Some(Filter { file, handle })
}

impl Filter {
    /// Follows the file until it is dropped.
    pub async fn follow(self) {
        let mut failed = String::new();
        loop {
            match read(&self.file) {
                Ok(filter) => {
                    failed.clear();
                    let filter = filter.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER));
                    if self.handle.with_current(|now| now.to_string() != filter.to_string()).unwrap_or(false) {
                        tracing::info!(%filter, "the log has a new filter");
                        // An error says that the log is gone.
                        let _ = self.handle.reload(filter);
                    }
                }
                Err(reason) if reason != failed => {
                    tracing::warn!("the log's filter in {} cannot be used: {reason}", self.file.display());
                    failed = reason;
                }
                Err(_) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The filter in a file, none when there is no file or nothing in it.
fn read(path: &Path) -> Result<Option<EnvFilter>, String> {
    let length = match fs::metadata(path) {
        Ok(file) => file.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > MAX_FILTER_BYTES {
        return Err(format!("it has {length} bytes, at most {MAX_FILTER_BYTES} are read"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    match text.trim() {
        "" => Ok(None),
        text => EnvFilter::try_new(text).map(Some).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log_config");
        assert!(read(&path).unwrap().is_none());
        for (text, filter) in [("\n", None), ("debug,hyper=info\n", Some("hyper=info,debug"))] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path).unwrap().map(|filter| filter.to_string()).as_deref(), filter);
        }
        fs::write(&path, "=%=").unwrap();
        assert!(read(&path).is_err());
        fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(read(&path).unwrap_err().contains("5000"));
    }
}
