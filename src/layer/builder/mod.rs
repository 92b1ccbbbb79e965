//! The builder methods of [`ApertureLayer`](super::ApertureLayer), by topic.

mod checks;
mod extensions;
mod http_checks;
mod labels;
mod rejections;
