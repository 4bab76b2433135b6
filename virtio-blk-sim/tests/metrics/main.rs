//! OpenMetrics of disks and loops: the numbers, the text, and who asks for it.

mod counts;
mod openmetrics;
mod rig;
mod scrapers;
