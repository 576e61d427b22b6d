//! Behaviour suites for every port, the memory store, the faulty port and the manual clock.
