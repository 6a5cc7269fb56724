/**
 * The agent's own files under its state folder: small texts that must survive a crash. Paths are relative, with `/`.
 * Everything that the agent remembers goes through here, so one fake can end the world at any write.
 */
export interface StateFiles {
  /** Null when there is no such file. */
  read(path: string): Promise<string | null>;
  /** After it resolves the new text survives a power cut; a crash before leaves the old text or the new one, never a mix. */
  replace(path: string, text: string): Promise<void>;
  /** After it resolves the text survives a power cut; a crash before may leave any prefix of it. */
  append(path: string, text: string): Promise<void>;
  /** Removes a file or a folder with all that is in it; nothing there is success. */
  remove(path: string): Promise<void>;
  /** The names in a folder, sorted; empty when there is no such folder. Leftovers of a crashed `replace` are not shown. */
  list(folder: string): Promise<readonly string[]>;
}
