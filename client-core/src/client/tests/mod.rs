//! Behaviour of the whole client against a scripted peer.
