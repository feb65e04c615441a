//! Measuring: percentiles, proportional memory, tables.
