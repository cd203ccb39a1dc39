//! A holder's end of links that reads what passes and alters what comes back. Plain links only.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Frame header 24, get status 1, version 4: then the blob (docs/protocol.md).
const BLOB_AT: usize = 29;

/// What the holder's end does with the answers to gets: with the last page of each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Honest,
    /// Flips the last bit.
    Changes,
    /// Gives the blob that it gave before, as the one that is asked for.
    Repeats,
}

pub struct Relay {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Seen>>,
}

pub struct Seen {
    mood: Mood,
    /// All that went to the holder.
    pub sent: Vec<u8>,
    /// The blob of the last honest answer.
    blob: Vec<u8>,
    meddled: u32,
}

impl Relay {
    pub fn start(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let seen = Arc::new(Mutex::new(Seen { mood: Mood::Honest, sent: Vec::new(), blob: Vec::new(), meddled: 0 }));
        let relay = Relay { address, seen: Arc::clone(&seen) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(holder) = TcpStream::connect(target) else { continue };
                let (client_too, holder_too) = (client.try_clone().expect("clone"), holder.try_clone().expect("clone"));
                let (out, back) = (Arc::clone(&seen), Arc::clone(&seen));
                std::thread::spawn(move || {
                    pass_on(client, holder, |bytes| out.lock().expect("seen").sent.extend_from_slice(bytes))
                });
                std::thread::spawn(move || pass_frames(holder_too, client_too, &back));
            }
        });
        relay
    }

    pub fn set(&self, mood: Mood) {
        self.seen.lock().expect("seen").mood = mood;
    }

    pub fn meddled(&self) -> u32 {
        self.seen.lock().expect("seen").meddled
    }
}

impl Seen {
    /// One frame.
    fn meddle(&mut self, frame: &mut [u8]) {
        let is_pages = frame.len() > BLOB_AT && frame[..4] == *b"RAMs" && frame[5] == 7;
        if !is_pages {
            return;
        }
        match self.mood {
            Mood::Honest => self.blob = frame[BLOB_AT..].to_vec(),
            Mood::Changes => *frame.last_mut().expect("a last byte") ^= 1,
            Mood::Repeats => {
                assert_eq!(self.blob.len() + BLOB_AT, frame.len(), "these pages all pack to one length");
                assert_ne!(self.blob, frame[BLOB_AT..]);
                frame[BLOB_AT..].copy_from_slice(&self.blob);
            }
        }
        self.meddled += u32::from(self.mood != Mood::Honest);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&mut [u8])) {
    let mut bytes = [0; 65536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        look(&mut bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Frame by frame.
fn pass_frames(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Seen>) {
    let mut frame = [0; 24 + 65536];
    while from.read_exact(&mut frame[..24]).is_ok() {
        let end = 24 + u32::from_le_bytes(frame[16..20].try_into().expect("length")) as usize;
        if from.read_exact(&mut frame[24..end]).is_err() {
            break;
        }
        seen.lock().expect("seen").meddle(&mut frame[..end]);
        if to.write_all(&frame[..end]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
