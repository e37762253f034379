//! Integration tests: they start the real `galen` binary against real servers. One binary; scenarios are data.
