//! What this process may do (capabilities(7)) and the clamps that follow from it.
