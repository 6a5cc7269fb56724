/** What the agent says it is; raised with each release. */
export const AGENT_VERSION = "0.1.0";
