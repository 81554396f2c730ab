//! The main job with real guests, under emulation, in network namespaces. One file for each promise.

mod boot;
mod foreign;
mod input;
mod power;
mod refuse;
mod restart;
mod rootless;
