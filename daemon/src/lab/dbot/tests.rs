//! Tests of reading, scaling, choosing and planning, and one short real run.
