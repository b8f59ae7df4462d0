//! The store seam: records, commands and the RuntimeStore traits.
