//! The server with real clients, on the loopback network.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod crowds;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod wire;
