//! The role as a process of its own, with the clients that people use: curl, tftp-hpa, atftp, nbdinfo, nbdcopy, qemu-img.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod classes;
#[cfg(test)]
mod content;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod http;
#[cfg(test)]
mod ipv6;
#[cfg(test)]
mod kept;
#[cfg(test)]
mod loaders;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod nodes;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod roots;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod updates;
