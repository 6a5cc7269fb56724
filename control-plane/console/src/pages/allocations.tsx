import { allocationOperationSchema, allocationSchema, type Allocation } from "@hostler/shared/api/allocations.ts";
import { imageSchema, type Image } from "@hostler/shared/api/nodes.ts";
import { AppError, describeError, ERRORS } from "@hostler/shared/errors.ts";
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { listOf } from "../api.ts";
import { go } from "../router.ts";
import type { Signed } from "../signed.ts";
import { Badge } from "../ui/badge.tsx";
import { usePolled } from "../use-polled.ts";

/** The slices of a project, and the form that asks for another. */
export function AllocationsPage({ signed }: { readonly signed: Signed }): JSX.Element {
  const { api, whoami } = signed;
  const [projectId, setProjectId] = useState(whoami.projects[0]?.id ?? "");
  const list = usePolled(projectId, 1500, async () =>
    projectId === ""
      ? []
      : (await api.get(`/api/tenant/v1/projects/${projectId}/allocations`, listOf(allocationSchema))).items,
  );
  const images = usePolled("images", 30_000, async () =>
    projectId === "" ? [] : (await api.get("/api/tenant/v1/images", listOf(imageSchema))).items,
  );
  if (projectId === "")
    return (
      <p class="empty">This key has no role in a project, so it has no slices. The page Hosts is what it can see.</p>
    );
  return (
    <>
      <div class="title">
        <h1>Slices</h1>
        <select value={projectId} onChange={(event) => setProjectId(event.currentTarget.value)}>
          {whoami.projects.map((project) => (
            <option key={project.id} value={project.id}>
              {project.organizationName} / {project.name}
            </option>
          ))}
        </select>
      </div>
      <CreateForm signed={signed} projectId={projectId} images={images.value ?? []} />
      {list.error !== null && <p class="error">{list.error}</p>}
      {list.value?.length === 0 && <p class="empty">No slices yet. Name one above and press Create.</p>}
      {list.value !== null && list.value.length > 0 && <AllocationTable allocations={list.value} />}
    </>
  );
}

function AllocationTable({ allocations }: { readonly allocations: readonly Allocation[] }): JSX.Element {
  return (
    <table>
      <thead>
        <tr>
          <th>Name</th>
          <th>State</th>
          <th>Host</th>
          <th>GPUs</th>
          <th>Size</th>
          <th>Made</th>
        </tr>
      </thead>
      <tbody>
        {allocations.map((allocation) => (
          <tr key={allocation.id} class="link" onClick={() => go(`/allocations/${allocation.id}`)}>
            <td>
              <a href={`/allocations/${allocation.id}`} onClick={(event) => event.preventDefault()}>
                {allocation.name}
              </a>
            </td>
            <td>
              <Badge state={allocation.state} />
            </td>
            <td>{allocation.nodeName ?? "–"}</td>
            <td>
              {allocation.gpus.length === 0 ? "–" : allocation.gpus.map((gpu) => gpu.kind).join(", ")}
              {allocation.gpusSimulated && <span class="simulated">simulated</span>}
            </td>
            <td>
              {allocation.vcpus} vCPU, {allocation.memoryMib} MiB, {allocation.diskGib} GiB
            </td>
            <td>{new Date(allocation.createdAt).toLocaleTimeString()}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function CreateForm({
  signed,
  projectId,
  images,
}: {
  readonly signed: Signed;
  readonly projectId: string;
  readonly images: readonly Image[];
}): JSX.Element {
  const [error, setError] = useState<string | null>(null);
  const [isBusy, setIsBusy] = useState(false);
  const onSubmit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    if (!(event.currentTarget instanceof HTMLFormElement)) return;
    const body = requestOf(new FormData(event.currentTarget));
    setIsBusy(true);
    setError(null);
    try {
      const path = `/api/tenant/v1/projects/${projectId}/allocations`;
      go(`/allocations/${(await signed.api.post(path, body, allocationOperationSchema)).allocation.id}`);
    } catch (failure) {
      setError(
        failure instanceof AppError ? `${failure.message} ${ERRORS[failure.code].remedy}` : describeError(failure),
      );
      setIsBusy(false);
    }
  };
  return (
    <form class="create" onSubmit={(event) => void onSubmit(event)}>
      <label>
        Name
        <input
          name="name"
          required
          pattern="[a-z0-9]([a-z0-9\-]*[a-z0-9])?"
          maxLength={63}
          placeholder="my-slice"
          autocomplete="off"
        />
      </label>
      <label>
        Image
        <select name="image">
          {images.map((image) => (
            <option key={image.id} value={image.name}>
              {image.name}
            </option>
          ))}
        </select>
      </label>
      <NumberField name="gpus" label="GPUs" value={1} min={0} max={64} />
      <NumberField name="vcpus" label="vCPUs" value={1} min={1} max={512} />
      <NumberField name="memoryMib" label="Memory, MiB" value={512} min={128} max={8_388_608} />
      <NumberField name="diskGib" label="Disk, GiB" value={2} min={1} max={65_536} />
      <button type="submit" disabled={isBusy || images.length === 0}>
        Create
      </button>
      {images.length === 0 && (
        <p class="hint">There is no image yet. An operator imports one: hostler images import FILE --name NAME</p>
      )}
      {error !== null && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
    </form>
  );
}

function NumberField(field: {
  readonly name: string;
  readonly label: string;
  readonly value: number;
  readonly min: number;
  readonly max: number;
}): JSX.Element {
  return (
    <label class="number">
      {field.label}
      <input
        type="number"
        name={field.name}
        defaultValue={String(field.value)}
        min={field.min}
        max={field.max}
        required
      />
    </label>
  );
}

function requestOf(form: FormData): unknown {
  const number = (name: string): number => Number(form.get(name));
  return {
    name: form.get("name"),
    image: form.get("image"),
    vcpus: number("vcpus"),
    memoryMib: number("memoryMib"),
    diskGib: number("diskGib"),
    gpus: { count: number("gpus"), kind: null },
  };
}
