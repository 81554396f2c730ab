//! From what a DHCP client says of itself to what it is answered.
