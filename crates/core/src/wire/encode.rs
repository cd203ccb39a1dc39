//! Messages to bytes. Covers writing each message to the end of a buffer, cutting long batches into frames; not whether the session may send
//! them now.

use super::error::LocalProtocolError as Ours;
use super::frame::{HEADER_BYTES, Header, Kind};
use super::message::*;
use super::{MAX_AUTH_BYTES, MAX_BLOB_BYTES, MAX_FRAME_BYTES, MAX_PAGES};
use crate::handle::{Handle, ObjectId, OwnerId, PoolId, PoolKind, Version};

/// One frame being written at the end of a buffer. The header is filled in by `finish`.
struct FrameWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    header: Header,
}

impl<'a> FrameWriter<'a> {
    fn begin(out: &'a mut Vec<u8>, kind: Kind, request: u64, first_index: u16) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        FrameWriter { out, start, header: Header { kind, request, length_bytes: 0, count: 0, first_index, ephemeral: false } }
    }

    fn has_room(&self, more_bytes: usize) -> bool {
        self.out.len() - self.start + more_bytes <= MAX_FRAME_BYTES
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    fn u64s(&mut self, values: &[u64]) -> &mut Self {
        for value in values {
            self.bytes(&value.to_le_bytes());
        }
        self
    }

    fn object(&mut self, pool: PoolId, object: ObjectId) -> &mut Self {
        self.bytes(&pool.0.to_le_bytes()).u64s(&object.0)
    }

    fn handle(&mut self, handle: &Handle) -> &mut Self {
        self.object(handle.pool, handle.object).bytes(&handle.index.to_le_bytes())
    }

    fn wanted(&mut self, handle: &Handle, version: Version) -> &mut Self {
        self.handle(handle).bytes(&version.to_le_bytes())
    }

    fn blob(&mut self, blob: &Blob<'_>) -> &mut Self {
        self.bytes(&[blob.kind]).bytes(&blob.tag.0);
        self.bytes(&(blob.bytes.len() as u16).to_le_bytes()).bytes(blob.bytes)
    }

    fn owner(&mut self, owner: &OwnerId) -> &mut Self {
        self.u64s(&[owner.node]).bytes(&owner.client.to_le_bytes()).u64s(&[owner.incarnation])
    }

    fn done(&mut self, done: &Done) -> &mut Self {
        self.bytes(&[done.status as u8]).u64s(&[done.pages, done.free_bytes])
    }

    fn finish(mut self) {
        self.header.length_bytes = (self.out.len() - self.start - HEADER_BYTES) as u32;
        debug_assert!(self.header.frame_bytes() <= MAX_FRAME_BYTES);
        self.out[self.start..self.start + HEADER_BYTES].copy_from_slice(&self.header.encode());
    }
}

pub fn hello(out: &mut Vec<u8>, hello: &Hello<'_>) -> Result<(), Ours> {
    if hello.auth.len() > MAX_AUTH_BYTES {
        return Err(Ours::AuthTooLong);
    }
    let mut frame = FrameWriter::begin(out, Kind::Hello, 0, 0);
    frame.owner(&hello.owner);
    frame.bytes(&[hello.role as u8, hello.lowest_version, hello.highest_version, hello.auth_scheme]);
    frame.bytes(&(hello.auth.len() as u16).to_le_bytes()).bytes(hello.auth);
    frame.finish();
    Ok(())
}

pub fn welcome(out: &mut Vec<u8>, welcome: &Welcome<'_>) -> Result<(), Ours> {
    if welcome.auth.len() > MAX_AUTH_BYTES {
        return Err(Ours::AuthTooLong);
    }
    let mut frame = FrameWriter::begin(out, Kind::Welcome, 0, 0);
    frame.bytes(&[welcome.version, welcome.auth_scheme]).bytes(&(welcome.auth.len() as u16).to_le_bytes());
    frame.u64s(&[welcome.node, welcome.incarnation, welcome.account, welcome.offer_bytes, welcome.free_bytes]);
    frame.bytes(welcome.auth);
    frame.finish();
    Ok(())
}

pub fn refuse(out: &mut Vec<u8>, refuse: &Refuse) {
    let mut frame = FrameWriter::begin(out, Kind::Refuse, 0, 0);
    frame.bytes(&[refuse.reason as u8, refuse.lowest_version, refuse.highest_version]);
    frame.finish();
}

fn check_count(count: usize) -> Result<(), Ours> {
    match count {
        0 => Err(Ours::NoPages),
        1..=MAX_PAGES => Ok(()),
        _ => Err(Ours::TooManyPages),
    }
}

/// As many frames as the pages need, all of one request; all pages of one kind of pool.
pub fn put(out: &mut Vec<u8>, request: u64, pool: PoolKind, pages: &[PutPage<'_>]) -> Result<(), Ours> {
    check_count(pages.len())?;
    if pages.iter().any(|page| page.blob.bytes.len() > MAX_BLOB_BYTES) {
        return Err(Ours::BlobTooLong);
    }
    let mut next = 0;
    while next < pages.len() {
        let mut frame = FrameWriter::begin(out, Kind::Put, request, next as u16);
        frame.header.ephemeral = pool == PoolKind::Ephemeral;
        while let Some(page) = pages.get(next)
            && frame.has_room(PUT_PAGE_BYTES + page.blob.bytes.len())
        {
            frame.wanted(&page.handle, page.version).blob(&page.blob);
            frame.header.count += 1;
            next += 1;
        }
        frame.finish();
    }
    Ok(())
}

pub fn get(out: &mut Vec<u8>, request: u64, pages: &[(Handle, Version)]) -> Result<(), Ours> {
    handles(out, Kind::Get, request, pages)
}

pub fn flush(out: &mut Vec<u8>, request: u64, pages: &[(Handle, Version)]) -> Result<(), Ours> {
    handles(out, Kind::Flush, request, pages)
}

fn handles(out: &mut Vec<u8>, kind: Kind, request: u64, pages: &[(Handle, Version)]) -> Result<(), Ours> {
    check_count(pages.len())?;
    let mut frame = FrameWriter::begin(out, kind, request, 0);
    for (handle, version) in pages {
        frame.wanted(handle, *version);
    }
    frame.header.count = pages.len() as u16;
    frame.finish();
    Ok(())
}

pub fn flush_range(out: &mut Vec<u8>, request: u64, first: &Handle, count: u32) {
    let mut frame = FrameWriter::begin(out, Kind::FlushRange, request, 0);
    frame.handle(first).bytes(&count.to_le_bytes());
    frame.finish();
}

pub fn flush_object(out: &mut Vec<u8>, request: u64, pool: PoolId, object: ObjectId) {
    let mut frame = FrameWriter::begin(out, Kind::FlushObject, request, 0);
    frame.object(pool, object);
    frame.finish();
}

pub fn destroy_pool(out: &mut Vec<u8>, request: u64, pool: PoolId) {
    let mut frame = FrameWriter::begin(out, Kind::DestroyPool, request, 0);
    frame.bytes(&pool.0.to_le_bytes());
    frame.finish();
}

pub fn share(out: &mut Vec<u8>, request: u64, child: &OwnerId) {
    let mut frame = FrameWriter::begin(out, Kind::Share, request, 0);
    frame.owner(child);
    frame.finish();
}

/// Goodbye, ping and pong: a header is all they are.
pub fn bare(out: &mut Vec<u8>, kind: Kind, request: u64) {
    FrameWriter::begin(out, kind, request, 0).finish();
}

pub fn done(out: &mut Vec<u8>, request: u64, done: &Done) {
    let mut frame = FrameWriter::begin(out, Kind::Done, request, 0);
    frame.done(done);
    frame.finish();
}

pub fn farewell(out: &mut Vec<u8>, request: u64, done: &Done) {
    let mut frame = FrameWriter::begin(out, Kind::Farewell, request, 0);
    frame.done(done);
    frame.finish();
}

pub fn status(out: &mut Vec<u8>, offer_bytes: u64, free_bytes: u64, recall_bytes: u64) {
    let mut frame = FrameWriter::begin(out, Kind::Status, 0, 0);
    frame.u64s(&[offer_bytes, free_bytes, recall_bytes]);
    frame.finish();
}

/// Answers one put frame, status by status. `free_bytes` is filled in last, when the pages are in.
pub struct PutDoneWriter<'a>(FrameWriter<'a>);

impl<'a> PutDoneWriter<'a> {
    pub fn begin(out: &'a mut Vec<u8>, request: u64, first_index: u16) -> Self {
        let mut frame = FrameWriter::begin(out, Kind::PutDone, request, first_index);
        frame.bytes(&[0; FREE_BYTES]);
        PutDoneWriter(frame)
    }

    pub fn push(&mut self, status: PutStatus) {
        self.0.bytes(&[status as u8]);
        self.0.header.count += 1;
    }

    pub fn finish(self, free_bytes: u64) {
        let at = self.0.start + HEADER_BYTES;
        self.0.out[at..at + FREE_BYTES].copy_from_slice(&free_bytes.to_le_bytes());
        self.0.finish();
    }
}

/// Answers a get, or the part of it that fits a frame.
pub struct PagesWriter<'a>(FrameWriter<'a>);

impl<'a> PagesWriter<'a> {
    pub fn begin(out: &'a mut Vec<u8>, request: u64, first_index: u16) -> Self {
        PagesWriter(FrameWriter::begin(out, Kind::Pages, request, first_index))
    }

    /// False: the frame is full and the page has to go into the next one.
    #[must_use]
    pub fn push(&mut self, found: &Found<'_>) -> bool {
        let needed_bytes = if let Found::Hit { blob, .. } = found { HIT_BYTES + blob.bytes.len() } else { 1 };
        if !self.0.has_room(needed_bytes) {
            return false;
        }
        match found {
            Found::Hit { version, blob } => self.0.bytes(&[0]).bytes(&version.to_le_bytes()).blob(blob),
            Found::Miss => self.0.bytes(&[1]),
            Found::Gone => self.0.bytes(&[2]),
            Found::Stale => self.0.bytes(&[3]),
            Found::Refused => self.0.bytes(&[4]),
        };
        self.0.header.count += 1;
        true
    }

    pub fn finish(self) {
        self.0.finish();
    }
}
