//! The role as a process of its own, with the clients that people use: curl, tftp-hpa, atftp, nbdinfo, nbdcopy, qemu-img.

mod bed;
mod content;
mod nodes;
