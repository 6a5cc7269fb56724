/** What the agent says it is; raised with each release. */
export const AGENT_VERSION = "0.1.0";
/** No host ran this version before this day: a clock that is behind it is wrong. Raised with each release. */
export const AGENT_BUILT_AT = "2026-11-21T00:00:00Z";
