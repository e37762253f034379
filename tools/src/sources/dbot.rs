//! D-Bot
