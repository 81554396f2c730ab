//! The main job with real guests, under emulation, in network namespaces. One file for each promise.

mod arm64;
mod boot;
mod config;
mod containerfile;
mod disk;
mod firmware;
mod foreign;
mod input;
mod ipv6;
mod lts;
mod memory;
mod nbd;
mod nfs;
mod old_paths;
mod power;
mod proxy;
mod refuse;
mod replicas;
mod restart;
mod rootless;
mod signatures;
#[cfg(test)]
mod trust;
mod updates;
mod watching;
