//! `usnap serve-origin` and `usnap snapshot` from the outside: what a client wrote is on the origin,
//! and each snapshot shows its moment, whatever happens to the server.

#[cfg(test)]
mod changes;
#[cfg(test)]
mod full;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod moments;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod world;
