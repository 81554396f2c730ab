//! Formats against the tools that everybody uses, the store against crashes, and builds with the real mmdebstrap.

#[cfg(test)]
mod builds;
#[cfg(test)]
mod containerfiles;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod locks;
#[cfg(test)]
mod moves;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod store;
#[cfg(test)]
mod trees;
#[cfg(test)]
mod world;
