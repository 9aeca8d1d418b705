//! Redis as an index over a store: fast, and never believed further than a miss.
