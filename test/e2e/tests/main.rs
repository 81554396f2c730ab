//! The main job with real guests, under emulation, in network namespaces. One file for each promise.

mod arm64;
mod boot;
mod firmware;
mod foreign;
mod input;
mod nbd;
mod power;
mod proxy;
mod refuse;
mod old_paths;
mod nfs;
mod restart;
mod rootless;
mod replicas;
mod watching;
