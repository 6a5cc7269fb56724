export * from "./bootstrap-token.ts";
export * from "./certificates.ts";
export * from "./certificate-names.ts";
export * from "./chain.ts";
export * from "./keys.ts";
export * from "./proofs.ts";
export * from "./result-jws.ts";
export * from "./task-jws.ts";
