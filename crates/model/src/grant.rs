//! The grant: who holds an exclusive role. One key of the store per role; the goal only says who should.

use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, Token};

/// The value of a role's key in the store. Leased: it ends when its holder stops vouching for the role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who holds the role.
    pub holder: NodeName,
    /// The session it is leased to.
    pub session: u64,
    /// The generation at which this holder was granted.
    pub token: Token,
}
