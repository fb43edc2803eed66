//! Placement against its slow twin: everything tried, judged by the words of the models alone.

mod brute;
mod journeys;
mod random;
mod remedies;
mod shared;
mod single;
mod vectors;
