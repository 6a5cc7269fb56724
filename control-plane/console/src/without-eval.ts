import * as z from "zod";

// The page's content security policy forbids making code from text, which zod tries for speed when a schema is made. Imported
// first, so that it is set before any schema is.
z.config({ jitless: true });
