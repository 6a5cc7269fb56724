import { operationSchema, type Operation } from "@hostler/shared/api/common.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { isFinal, OPERATION_TRANSITIONS } from "@hostler/shared/states.ts";
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { listOf } from "../api.ts";
import type { Signed } from "../signed.ts";
import { Badge } from "../ui/badge.tsx";
import { usePolled } from "../use-polled.ts";

/** Long work, newest first: of each project that the key sees, and of the control plane itself for operators. */
export function OperationsPage({ signed }: { readonly signed: Signed }): JSX.Element {
  const { projects, permissions } = signed.whoami;
  return (
    <>
      {projects.map((project) => (
        <OperationList
          key={project.id}
          signed={signed}
          title={`${project.organizationName} / ${project.name}`}
          path={`/api/tenant/v1/projects/${project.id}/operations`}
        />
      ))}
      {permissions.includes("platform.operation.read") && (
        <OperationList signed={signed} title="The control plane itself" path="/api/ops/v1/operations" />
      )}
    </>
  );
}

function OperationList(props: { readonly signed: Signed; readonly title: string; readonly path: string }): JSX.Element {
  const { signed, title, path } = props;
  const list = usePolled(path, 1500, async () => (await signed.api.get(path, listOf(operationSchema))).items);
  const [refusal, setRefusal] = useState<string | null>(null);
  const cancel = async (operation: Operation): Promise<void> => {
    try {
      await signed.api.post(`/api/common/v1/operations/${operation.id}/cancel`, {}, operationSchema);
      setRefusal(null);
    } catch (error) {
      setRefusal(describeError(error));
    }
  };
  return (
    <section>
      <h2>{title}</h2>
      {(refusal ?? list.error) !== null && <p class="error">{refusal ?? list.error}</p>}
      {list.value?.length === 0 && <p class="empty">No operations yet.</p>}
      {list.value !== null && list.value.length > 0 && (
        <table>
          <thead>
            <tr>
              <th>Kind</th>
              <th>State</th>
              <th>Progress</th>
              <th>Phase</th>
              <th>About</th>
              <th>Since</th>
              <th />
            </tr>
          </thead>
          <tbody>
            {list.value.map((operation) => (
              <Row key={operation.id} operation={operation} onCancel={() => void cancel(operation)} />
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}

function Row({ operation, onCancel }: { readonly operation: Operation; readonly onCancel: () => void }): JSX.Element {
  const mayCancel = !isFinal(OPERATION_TRANSITIONS, operation.state) && operation.kind !== "allocation.release";
  return (
    <tr data-operation={operation.kind}>
      <td>{operation.kind}</td>
      <td title={operation.error?.message}>
        <Badge state={operation.state} />
      </td>
      <td>{Math.round(operation.progress * 100)} %</td>
      <td>{operation.phase ?? "–"}</td>
      <td>
        <small>{operation.targetId}</small>
      </td>
      <td>{new Date(operation.createdAt).toLocaleTimeString()}</td>
      <td>
        {mayCancel && (
          <button type="button" class="quiet" onClick={onCancel}>
            Cancel
          </button>
        )}
      </td>
    </tr>
  );
}
