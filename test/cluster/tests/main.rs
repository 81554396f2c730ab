//! Stokehold in real clusters: real control planes, nodes, helm and kubectl, and guests under emulation. One file for each
//! promise.

mod machine;
mod memory;
mod nodes;
mod rolling;
mod uplink;
