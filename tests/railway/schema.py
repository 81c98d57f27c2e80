"""What of Railway's public schema Backout uses, as its command line publishes it (src/gql/schema.json of railwayapp/cli, read in August 2026).

Types are written as GraphQL does. A field is (its type, its arguments). Nothing that is not here is served.
"""

from __future__ import annotations

Field = tuple[str, dict[str, str]]

_PAGED = {"after": "String", "before": "String", "first": "Int", "last": "Int"}


def _plain(**types: str) -> dict[str, Field]:
    return {name: (written, {}) for name, written in types.items()}


SCALARS = {"String", "Int", "Boolean", "ID", "DateTime", "DeploymentMeta", "EnvironmentConfig", "EnvironmentVariables", "Float"}
ENUMS = {
    "DeploymentStatus": {
        "BUILDING", "CRASHED", "DEPLOYING", "FAILED", "INITIALIZING", "NEEDS_APPROVAL", "QUEUED", "REMOVED", "REMOVING", "SKIPPED", "SLEEPING",
        "SUCCESS", "WAITING",
    },
    "DeploymentInstanceStatus": {
        "CRASHED", "CREATED", "EXITED", "INITIALIZING", "REMOVED", "REMOVING", "RESTARTING", "RUNNING", "SKIPPED", "STOPPED",
    },
    "VolumeState": {"DELETED", "DELETING", "ERROR", "MIGRATING", "MIGRATION_PENDING", "READY", "RESTORING", "UPDATING"},
    "EnvironmentPatchStatus": {"APPLYING", "COMMITTED", "STAGED"},
    "WorkflowStatus": {"Complete", "Error", "NotFound", "Running"},
    "VolumeInstanceBackupScheduleKind": {"DAILY", "MONTHLY", "WEEKLY"},
}  # fmt: skip
INPUTS = {
    "VariableUpsertInput": {
        "environmentId": "String!", "name": "String!", "projectId": "String!", "serviceId": "String", "skipDeploys": "Boolean", "value": "String!",
    },
    "VariableDeleteInput": {"environmentId": "String!", "name": "String!", "projectId": "String!", "serviceId": "String"},
    "DeploymentListInput": {
        "environmentId": "String", "includeDeleted": "Boolean", "projectId": "String", "serviceId": "String", "status": "DeploymentStatusInput",
    },
    "DeploymentStatusInput": {"in": "[DeploymentStatus!]", "notIn": "[DeploymentStatus!]"},
}  # fmt: skip
TYPES: dict[str, dict[str, Field]] = {
    "query": {
        "environment": ("Environment!", {"id": "String!", "projectId": "String"}),
        "variables": (
            "EnvironmentVariables!", {"environmentId": "String!", "projectId": "String!", "serviceId": "String", "unrendered": "Boolean"},
        ),
        "deployment": ("Deployment!", {"id": "String!"}),
        "deployments": ("QueryDeploymentsConnection!", {**_PAGED, "input": "DeploymentListInput!"}),
        "deploymentLogs": (
            "[Log!]!", {"deploymentId": "String!", "endDate": "DateTime", "filter": "String", "limit": "Int", "startDate": "DateTime"},
        ),
        "volumeInstanceBackupList": ("[VolumeInstanceBackup!]!", {"volumeInstanceId": "String!"}),
        "volumeInstanceBackupScheduleList": ("[VolumeInstanceBackupSchedule!]!", {"volumeInstanceId": "String!"}),
        "volumeInstance": ("VolumeInstance!", {"id": "String!"}),
        "environmentStagedChanges": ("EnvironmentPatch!", {"environmentId": "String!"}),
        "workflowStatus": ("WorkflowResult!", {"workflowId": "String!"}),
    },
    "mutation": {
        "variableUpsert": ("Boolean!", {"input": "VariableUpsertInput!"}),
        "variableDelete": ("Boolean!", {"input": "VariableDeleteInput!"}),
        "deploymentRedeploy": ("Deployment!", {"id": "String!", "usePreviousImageTag": "Boolean"}),
        "deploymentRestart": ("Boolean!", {"id": "String!"}),
        "environmentPatchCommitStaged": ("String!", {"commitMessage": "String", "environmentId": "String!", "skipDeploys": "Boolean"}),
        "volumeInstanceBackupRestore": (
            "WorkflowId!",
            {"replicaServiceIds": "[String!]", "volumeInstanceBackupId": "String!", "volumeInstanceId": "String!", "wipeServiceIds": "[String!]"},
        ),
    },
    "Environment": {
        **_plain(id="ID!", name="String!", projectId="String!"),
        "serviceInstances": ("EnvironmentServiceInstancesConnection!", _PAGED),
        "variables": ("EnvironmentVariablesConnection!", _PAGED),
        "volumeInstances": ("EnvironmentVolumeInstancesConnection!", _PAGED),
    },
    "EnvironmentVolumeInstancesConnection": _plain(edges="[EnvironmentVolumeInstancesConnectionEdge!]!", pageInfo="PageInfo!"),
    "EnvironmentVolumeInstancesConnectionEdge": _plain(cursor="String!", node="VolumeInstance!"),
    "EnvironmentPatch": {
        **_plain(
            id="ID!", status="EnvironmentPatchStatus!", environmentId="String!", lastAppliedError="String", message="String", createdAt="DateTime!",
            updatedAt="DateTime!", appliedAt="DateTime",
        ),
        "patch": ("EnvironmentConfig!", {"decryptVariables": "Boolean"}),
    },
    "EnvironmentServiceInstancesConnection": _plain(edges="[EnvironmentServiceInstancesConnectionEdge!]!", pageInfo="PageInfo!"),
    "EnvironmentServiceInstancesConnectionEdge": _plain(cursor="String!", node="ServiceInstance!"),
    "EnvironmentVariablesConnection": _plain(edges="[EnvironmentVariablesConnectionEdge!]!", pageInfo="PageInfo!"),
    "EnvironmentVariablesConnectionEdge": _plain(cursor="String!", node="Variable!"),
    "PageInfo": _plain(endCursor="String", hasNextPage="Boolean!", hasPreviousPage="Boolean!", startCursor="String"),
    "ServiceInstance": _plain(
        id="ID!", serviceId="String!", serviceName="String!", environmentId="String!", deletedAt="DateTime",
        activeDeployments="[Deployment!]!", latestDeployment="Deployment",
    ),
    "Deployment": _plain(
        id="ID!", status="DeploymentStatus!", canRedeploy="Boolean!", canRollback="Boolean!", createdAt="DateTime!", meta="DeploymentMeta",
        serviceId="String", environmentId="String!", projectId="String!", instances="[DeploymentDeploymentInstance!]!",
    ),
    "DeploymentDeploymentInstance": _plain(id="String!", status="DeploymentInstanceStatus!"),
    "QueryDeploymentsConnection": _plain(edges="[QueryDeploymentsConnectionEdge!]!", pageInfo="PageInfo!"),
    "QueryDeploymentsConnectionEdge": _plain(cursor="String!", node="Deployment!"),
    "Variable": _plain(id="ID!", name="String!", serviceId="String", environmentId="String", isSealed="Boolean!"),
    "Log": _plain(message="String!", severity="String", timestamp="String!"),
    "VolumeInstance": _plain(
        id="ID!", volumeId="String!", serviceId="String", environmentId="String!", mountPath="String!", state="VolumeState", sizeMB="Int!",
        currentSizeMB="Float!", createdAt="DateTime!", deletedAt="DateTime",
    ),
    "VolumeInstanceBackup": _plain(
        id="String!", name="String", createdAt="DateTime!", expiresAt="DateTime", creatorId="String", externalId="String!", referencedMB="Int",
        scheduleId="String", usedMB="Int", volumeInstanceSizeMB="Int",
    ),
    "VolumeInstanceBackupSchedule": _plain(
        id="ID!", kind="VolumeInstanceBackupScheduleKind!", cron="String!", name="String!", retentionSeconds="Int", createdAt="DateTime!",
    ),
    "WorkflowId": _plain(workflowId="String"),
    "WorkflowResult": _plain(status="WorkflowStatus!", error="String"),
}  # fmt: skip


def bare(written: str) -> str:
    """The type's own name."""
    return written.strip("[]!")
