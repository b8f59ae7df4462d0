//! Open files over a socket.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Sends bytes, which must fit into the socket's buffer, and a file with the first of them.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<()> {
    let files = [file];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    let bytes = [IoSlice::new(bytes)];
    sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives at the most as many bytes as fit, and the file that came with them.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [IoSliceMut::new(buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut buffer, &mut control, flags)?;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Ok((received.bytes, files.flatten().next()))
}

/// Begins a message: its length as a little-endian `u32`, and a file with that. The bytes of the message come next.
pub(super) fn begin(socket: BorrowedFd<'_>, length: usize, file: BorrowedFd<'_>) -> io::Result<()> {
    let length = u32::try_from(length).map_err(|_| io::ErrorKind::ArgumentListTooLong)?;
    send(socket, &length.to_le_bytes(), file)
}

/// Sends a whole message, and a file with it.
pub(super) fn send_message(
    socket: &mut UnixStream,
    message: &[u8],
    file: BorrowedFd<'_>,
) -> io::Result<()> {
    begin(socket.as_fd(), message.len(), file)?;
    socket.write_all(message)
}

/// Receives a whole message and the file that came with it.
pub(super) fn receive_message(socket: &mut UnixStream) -> io::Result<(Vec<u8>, OwnedFd)> {
    let mut length = [0; 4];
    let (count, file) = receive(socket.as_fd(), &mut length)?;
    socket.read_exact(length.get_mut(count..).unwrap_or_default())?;
    let length = u32::from_le_bytes(length);
    let mut message = Vec::new();
    socket.take(length.into()).read_to_end(&mut message)?;
    if message.len() as u64 != u64::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((message, file.ok_or(io::ErrorKind::InvalidData)?))
}
