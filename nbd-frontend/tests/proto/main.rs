//! The protocol module from outside: each rule of proto.md that servers get wrong as a test of its
//! own, the client against the server, and both against hostile peers. No sockets are involved.
#[cfg(test)]
mod alloc_free;
#[cfg(test)]
mod block_status;
#[cfg(test)]
mod blocking;
#[cfg(test)]
mod client_handshake;
#[cfg(test)]
mod client_replies;
#[cfg(test)]
mod document;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod meta_context;
#[cfg(test)]
mod pair;
#[cfg(test)]
mod pipeline;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod replies;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod support;
#[cfg(test)]
mod uri;
