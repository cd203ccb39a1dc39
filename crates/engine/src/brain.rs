//! The thread that talks to the local node: registers, reports twice a second, takes the view and the directives. Its absence harms nothing:
//! the engine obeys the last directives it has. JSON lines over a Unix socket; the node's side is `ramster/node`.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ramster_sys::quiet::move_high;
use ramster_sys::say::say;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::clock::now_ms;
use crate::engine::Engine;
use crate::options::{CredentialsPem, Directives, PeerAddr};
use crate::spill::Spill;
use crate::statblock::{STAT_FIELDS, Stat};

/// A node's dashboard redraws about this often.
const REPORT_MS: u64 = 500;
const RECONNECT_MS: u64 = 2000;
/// A view of some thousand peers fits; a longer line is not from a node.
const MAX_LINE_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    peers: Option<Vec<PeerAddr>>,
    #[serde(default, deserialize_with = "known_ones")]
    directives: Option<Directives>,
    #[serde(default)]
    credentials: Option<CredentialsPem>,
}

/// Directives without those of a later version: a node may be newer than the programs that it serves.
fn known_ones<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Directives>, D::Error> {
    let Some(mut said) = Option::<Map<String, Value>>::deserialize(from)? else { return Ok(None) };
    if let Ok(Value::Object(known)) = serde_json::to_value(Directives::default()) {
        said.retain(|name, _| known.contains_key(name));
    }
    serde_json::from_value(said.into()).map(Some).map_err(D::Error::custom)
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FromNode {
    View(Box<View>),
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

/// Runs until the engine closes. Holds it weakly: a forgotten engine ends its thread.
pub fn run(engine: Weak<Engine>, socket: &Path) {
    while let Some(alive) = open_engine(&engine) {
        drop(alive);
        // Any error is the node's absence: try again later.
        let _ = talk(&engine, socket);
        let Some(alive) = open_engine(&engine) else { return };
        let heard = alive.closing().listen();
        if !alive.is_closed() {
            alive.closing().wait(heard, RECONNECT_MS);
        }
    }
}

fn open_engine(engine: &Weak<Engine>) -> Option<Arc<Engine>> {
    engine.upgrade().filter(|engine| !engine.is_closed())
}

fn talk(engine: &Weak<Engine>, socket: &Path) -> io::Result<()> {
    let Some(alive) = open_engine(engine) else { return Ok(()) };
    let mut stream = Noted::connect(alive, socket)?;
    let mut heard = Vec::new();
    let mut said = String::new();
    let mut report_at_ms = 0;
    while let Some(engine) = open_engine(engine) {
        let now = now_ms();
        if now >= report_at_ms {
            stream.send(&stats_message(&engine))?;
            report_at_ms = now + REPORT_MS;
        }
        stream.read(&mut heard, report_at_ms - now)?;
        obey_lines(&engine, &mut heard, &mut said)?;
    }
    Ok(())
}

/// The socket, in the list of what a forked child has to close.
struct Noted {
    stream: UnixStream,
    engine: Weak<Engine>,
}

impl Noted {
    fn connect(engine: Arc<Engine>, socket: &Path) -> io::Result<Noted> {
        let stream = UnixStream::from(move_high(UnixStream::connect(socket)?.into()));
        stream.set_write_timeout(Some(Duration::from_millis(REPORT_MS)))?;
        engine.inherited().note(stream.as_fd());
        let mut noted = Noted { stream, engine: Arc::downgrade(&engine) };
        let (pid, client) = (std::process::id(), format!("{:032x}", engine.owner().client));
        noted.send(&json!({"type": "register", "pid": pid, "client": client, "program": engine.program()}))?;
        Ok(noted)
    }

    fn send(&mut self, message: &serde_json::Value) -> io::Result<()> {
        let mut line = message.to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes())
    }

    /// Appends what comes within the time; nothing is not an error.
    fn read(&mut self, heard: &mut Vec<u8>, wait_ms: u64) -> io::Result<()> {
        self.stream.set_read_timeout(Some(Duration::from_millis(wait_ms.max(1))))?;
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(count) => {
                heard.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.inherited().forget(self.stream.as_fd());
        }
    }
}

fn stats_message(engine: &Engine) -> serde_json::Value {
    let mut message: serde_json::Map<String, serde_json::Value> =
        engine.stats().since_fork().map(|(name, value)| (name.to_owned(), value.into())).collect();
    // The block is the whole tree's, but each of its processes is a client of the node.
    for gauge in [Stat::BytesResident, Stat::BytesStored, Stat::BytesRemote] {
        message.insert(STAT_FIELDS[gauge as usize].to_owned(), engine.stats().own(gauge).into());
    }
    let own = || format!("{:032x}-{}", engine.owner().client, std::process::id());
    let block = engine.stats().block_number().map_or_else(own, |number| format!("{number:016x}"));
    message.insert("block".to_owned(), block.into());
    let histograms: serde_json::Map<_, _> =
        engine.stats().histograms().map(|(name, words)| (name.to_owned(), words.into())).collect();
    message.insert("histograms".to_owned(), histograms.into());
    message.insert("disk".to_owned(), engine.spill().map_or("none", Spill::word).into());
    message.insert("type".to_owned(), "stats".into());
    message.into()
}

/// `said`: the last complaint, which is made once however often the node repeats itself.
fn obey_lines(engine: &Engine, heard: &mut Vec<u8>, said: &mut String) -> io::Result<()> {
    while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
        let message: FromNode = serde_json::from_slice(&heard[..end])?;
        heard.drain(..=end);
        if let FromNode::View(view) = message {
            let View { peers, directives, credentials } = *view;
            let mut directives = directives.unwrap_or_default();
            directives.peers = directives.peers.or(peers);
            directives.credentials = directives.credentials.or(credentials);
            if let Err(error) = engine.set_directives(&directives)
                && error.0 != *said
            {
                say(format_args!("from the node: {error}"));
                *said = error.0;
            }
        }
    }
    if heard.len() > MAX_LINE_BYTES { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_among_the_directives_or_beside_them() {
        let pem = r#"{"roots":"a","chain":"b","key":"c","family":"000000000000000f"}"#;
        for text in [
            format!(r#"{{"type":"view","credentials":{pem}}}"#),
            format!(r#"{{"type":"view","directives":{{"credentials":{pem}}}}}"#),
        ] {
            let Ok(FromNode::View(view)) = serde_json::from_str(&text) else { panic!("{text}") };
            let View { directives, credentials, .. } = *view;
            assert_eq!(credentials.or(directives.and_then(|it| it.credentials)).map(|it| it.chain), Some("b".to_owned()));
        }
    }

    #[test]
    fn a_view_without_peers_leaves_them_and_an_unknown_message_is_ignored() {
        let parse = |text: &str| serde_json::from_str::<FromNode>(text).expect("parse");
        let view = parse(r#"{"type":"view","directives":{"store_bytes":5}}"#);
        let FromNode::View(view) = view else { panic!("not a view") };
        assert!(view.peers.is_none() && view.directives.is_some_and(|directives| directives.store_bytes == Some(5)));
        assert!(matches!(parse(r#"{"type":"farewell"}"#), FromNode::Unknown));
    }

    #[test]
    fn directives_of_a_later_version_do_not_keep_the_others_from_being_obeyed() {
        let text = r#"{"type":"view","later":1,"directives":{"store_bytes":5,"warp_factor":[9],"peers":[{"node":2,"address":"127.0.0.1:1","rack":7}]}}"#;
        let Ok(FromNode::View(view)) = serde_json::from_str(text) else { panic!("not a view") };
        let directives = view.directives.expect("directives");
        assert_eq!((directives.store_bytes, directives.peers.map(|peers| peers.len())), (Some(5), Some(1)));
        assert!(serde_json::from_str::<FromNode>(r#"{"type":"view","directives":{"store_bytes":"much"}}"#).is_err());
    }
}
