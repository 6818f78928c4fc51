"""The `LLMBatchJob` a user writes: spec and status as they stand in the custom resource.

The same models validate in the CLI, generate the CustomResourceDefinition and are read by the controller.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from llmbatch.api.base import API_VERSION, KIND, Document, Items, StrictDocument, cel
from llmbatch.api.conditions import Condition

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=31)]
JobName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=52)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Text = Annotated[str, StringConstraints(max_length=32768)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=253)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?([munkKMGTP]i?)?$", max_length=32)]
Seconds = Annotated[int, Field(ge=0, le=31_536_000)]

RESERVED_NAMES = frozenset(
    {"id", "input", "error", "error_stage", "prompt_tokens", "completion_tokens", "messages", "row"}
)
MAX_STAGES = 8
MAX_COUNTED = 1_000

InputFormat = Literal["openai", "jsonl", "csv", "parquet"]
OutputFormat = Literal["parquet", "jsonl", "openai"]
EngineName = Literal["vllm", "sglang", "openai", "simulated"]
TaskName = Literal["generate", "embed", "classify", "score"]
PolicyName = Literal["balanced", "rayReservation", "stock"]


class Storage(StrictDocument):
    """How to reach an object store. Credentials come from the environment, never from here."""

    endpoint: Uri | None = None
    """Base URL of an S3-compatible server, such as `https://minio.example:9000`."""
    region: ShortText | None = None
    """Region name, such as `eu-central-1`."""
    anonymous: bool = False
    """Send requests unsigned: for public buckets."""
    allow_http: bool = False
    """Accept an endpoint without TLS: for a server on a private network."""
    secret_name: ShortText | None = None
    """In a cluster: a Secret of the job's namespace; its keys become environment variables of the pods."""


class Input(StrictDocument):
    """Where the rows come from and how they are read."""

    uri: Uri
    """A file or a glob: `file://`, `s3://`, `gs://`, `abfs://`, or a plain path. `**` crosses folders."""
    format: InputFormat
    """openai (batch requests), jsonl, csv or parquet. `.gz` and `.zst` files are decompressed."""
    id_field: ShortText | None = None
    """The field that holds the row's id. Left out, ids are `<file>:<row>`. openai uses custom_id."""
    on_invalid_row: Literal["record", "fail"] = "record"
    """A line that cannot be parsed becomes an output row with an error (record) or fails the job (fail)."""
    unique_ids: Literal["check", "trust"] = "check"
    """check refuses a repeated id, at 8 bytes of temporary disk a row on the head; trust skips the check."""
    storage: Storage = Storage()
    """How to reach the input's object store."""


class Model(StrictDocument):
    """The model a stage runs."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    """A Hugging Face id, a local path, or the name the HTTP endpoint knows."""
    revision: ShortText | None = None
    """A commit or tag of the model, so that a re-run loads the same weights."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose code was reviewed."""


class Prompt(StrictDocument):
    """What a stage sends to its model: Jinja2 templates (sandboxed), or messages taken from the row.

    Templates see the row's fields and every earlier stage's output under the stage's name.
    """

    model_config = {
        "json_schema_extra": {
            "x-kubernetes-validations": [
                cel(
                    "has(self.user) != has(self.messagesField)",
                    "exactly one of user and messagesField must be set",
                ),
                cel(
                    "!(has(self.system) && has(self.messagesField))",
                    "system cannot be combined with messagesField: put it into the messages",
                    field_path=".system",
                ),
            ]
        }
    }

    system: Text | None = None
    """Template of the system message."""
    user: Text | None = None
    """Template of the user message; for embed, classify and score: of the text itself."""
    query: Text | None = None
    """Template of the query that a score stage compares the text with."""
    messages_field: ShortText | None = None
    """The row's field that already holds OpenAI chat messages, such as `messages`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.user is None) == (self.messages_field is None):
            raise ValueError("exactly one of user and messagesField must be set")
        if self.messages_field is not None and self.system is not None:
            raise ValueError("system cannot be combined with messagesField: put it into the messages")
        return self


class Sampling(StrictDocument):
    """How a generate stage samples. Names and meanings are vLLM's and the OpenAI API's."""

    max_tokens: Annotated[int, Field(ge=1, le=1_048_576)] = 256
    """Most tokens generated for a row."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 is greedy: the same prompt gives the same text."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling: the smallest set of tokens with this probability."""
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    """Sample among the k most likely tokens; -1 is all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Drop tokens less likely than this share of the most likely one."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Penalty on tokens that occurred."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Penalty on tokens by how often they occurred."""
    stop: Annotated[Items[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(max_length=16)] = ()
    """Strings that end the generation."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Each row samples with a seed made of this and its id, so that a row that runs twice gives one text."""
    json_schema: dict[str, Any] | None = None
    """JSON schema the text must follow (structured output)."""


class Replicas(StrictDocument):
    """Bounds of a stage's actor pool."""

    model_config = {
        "json_schema_extra": {
            "x-kubernetes-validations": [cel("self.min <= self.max", "min must not exceed max", field_path=".min")]
        }
    }

    min: Annotated[int, Field(ge=0, le=1024)] = 0
    """Replicas kept while there are GPUs for them; 0 lets a stage rest when another needs its GPU."""
    max: Annotated[int, Field(ge=1, le=1024)] = 1
    """Most replicas."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min must not exceed max, got min {self.min} and max {self.max}")
        return self


class Resources(StrictDocument):
    """What one replica of a stage occupies."""

    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """GPUs of one node; more than one runs tensor parallel. 0 runs on the CPU."""
    cpus: Annotated[float, Field(ge=0, le=256)] = 1.0
    """CPU cores a replica reserves."""
    accelerator: ShortText | None = None
    """Accelerator type the replica must have, by Ray's name, such as `L4`, `A100` or `H100`."""


class Endpoint(StrictDocument):
    """An OpenAI-compatible HTTP endpoint, for `engine: openai`."""

    url: Uri
    """Base URL up to and including `/v1`."""
    api_key_env: EnvName | None = "OPENAI_API_KEY"
    """Environment variable that holds the key. The key itself never stands in a job."""
    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Rate limit of one replica."""
    max_concurrency: Annotated[int, Field(ge=1, le=4096)] = 64
    """Most requests one replica has under way at a time; never more than the stage's `batchSize`."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Time limit of one request."""
    max_retries: Annotated[int, Field(ge=0, le=100)] = 8
    """Retries with backoff on 408, 409, 429, 5xx and lost connections; then the row is an error row."""


class Simulation(StrictDocument):
    """The service-time and load-time model of `engine: simulated`."""

    seconds_per_row: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Service time of a row in a batch, in seconds."""
    load_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Time a replica takes to load its model, in seconds."""
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of rows, chosen by their prompts' hash, that fail."""
    dimensions: Annotated[int, Field(ge=1, le=65_536)] = 16
    """Length of a simulated embedding."""


class Stage(StrictDocument):
    """One model applied to every row."""

    model_config = {
        "json_schema_extra": {
            "x-kubernetes-validations": [
                cel(
                    "self.engine == 'simulated' || has(self.model)",
                    "model is required by every engine but simulated",
                    field_path=".model",
                ),
                cel(
                    "(self.engine == 'openai') == has(self.endpoint)",
                    "endpoint is required by engine openai and allowed only there",
                    field_path=".endpoint",
                ),
                cel(
                    "self.engine != 'sglang' || self.task == 'generate'",
                    "engine sglang runs task generate only",
                    field_path=".task",
                ),
                cel(
                    "self.engine != 'openai' || self.task in ['generate', 'embed']",
                    "engine openai runs the tasks generate and embed",
                    field_path=".task",
                ),
                cel(
                    "(self.task == 'score') == has(self.prompt.query)",
                    "prompt.query is required by task score and allowed only there",
                    field_path=".prompt.query",
                ),
                cel(
                    f"!(self.name in {sorted(RESERVED_NAMES)!r})",
                    "name is reserved for an output column",
                    field_path=".name",
                ),
            ]
        }
    }

    name: Name
    """Unique in the job. Later stages and the output use it for this stage's result."""
    engine: EngineName
    """vllm, sglang, openai (an HTTP endpoint) or simulated (deterministic text, no model)."""
    task: TaskName = "generate"
    """generate text, embed, classify (class probabilities) or score (text against a query)."""
    model: Model | None = None
    """The model; not needed by engine simulated."""
    prompt: Prompt
    """What is sent to the model."""
    sampling: Sampling = Sampling()
    """Sampling of a generate stage."""
    replicas: Replicas = Replicas()
    """Bounds of the actor pool."""
    resources: Resources = Resources()
    """What one replica occupies."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    """Rows a replica takes at a time. Smaller loses less work when a node goes."""
    engine_args: dict[str, Any] = {}
    """Passed to the engine as they are, such as `max_model_len` or `enforce_eager`."""
    endpoint: Endpoint | None = None
    """For engine openai."""
    simulation: Simulation = Simulation()
    """For engine simulated."""

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(
                f"{name!r} is reserved for an output column; reserved: {', '.join(sorted(RESERVED_NAMES))}"
            )
        return name

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        if self.engine != "simulated" and self.model is None:
            raise ValueError(f"model is required by engine {self.engine}")
        if (self.engine == "openai") != (self.endpoint is not None):
            raise ValueError("endpoint is required by engine openai and allowed only there")
        allowed = {"sglang": ("generate",), "openai": ("generate", "embed")}.get(self.engine)
        if allowed is not None and self.task not in allowed:
            raise ValueError(f"engine {self.engine} runs task {' or '.join(allowed)}, got {self.task}")
        if (self.task == "score") != (self.prompt.query is not None):
            raise ValueError("prompt.query is required by task score and allowed only there")
        if "trust_remote_code" in self.engine_args:
            raise ValueError("engineArgs.trust_remote_code: set model.trustRemoteCode instead")
        return self


class Output(StrictDocument):
    """Where the rows go and in which form."""

    uri: Uri
    """A folder that belongs to this job alone. It must support an atomic create (S3, GCS, Azure, local)."""
    format: OutputFormat = "parquet"
    """parquet, jsonl, or openai (batch results). Errors of an openai output also get a file of their own."""
    keep_input: bool = False
    """Carry the input row along in the column `input`, as JSON."""
    storage: Storage = Storage()
    """How to reach the output's object store."""


class SpotCapacity(StrictDocument):
    """Preemptible workers."""

    max: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Most spot workers."""
    node_selector: Annotated[dict[str, str], Field(max_length=32)] = {}
    """Labels of the nodes."""
    tolerations: Annotated[Items[dict[str, Any]], Field(max_length=32)] = ()
    """Tolerations, as in a pod."""


class OnDemandCapacity(StrictDocument):
    """Workers that are not preempted."""

    model_config = {
        "json_schema_extra": {
            "x-kubernetes-validations": [cel("self.base <= self.max", "base must not exceed max", field_path=".base")]
        }
    }

    base: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Workers kept on demand whatever spot offers."""
    max: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Most on-demand workers, base and fallback together."""
    node_selector: Annotated[dict[str, str], Field(max_length=32)] = {}
    """Labels of the nodes."""
    tolerations: Annotated[Items[dict[str, Any]], Field(max_length=32)] = ()
    """Tolerations, as in a pod."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.base > self.max:
            raise ValueError(f"base must not exceed max, got base {self.base} and max {self.max}")
        return self


class Fallback(StrictDocument):
    """When on-demand workers stand in for spot workers that do not come."""

    after_seconds: Seconds = 300
    """Spot workers pending this long are replaced by on-demand ones."""
    return_after_seconds: Seconds = 600
    """Spot is tried again after this long."""


class CapacitySpec(StrictDocument):
    """How many workers of which kind. Read in a cluster only."""

    # The workers that run keep the GPUs they have: with another number they would all be counted wrong.
    model_config = {
        "json_schema_extra": {
            "x-kubernetes-validations": [
                cel(
                    "has(self.gpusPerWorker) == has(oldSelf.gpusPerWorker)"
                    " && (!has(self.gpusPerWorker) || self.gpusPerWorker == oldSelf.gpusPerWorker)",
                    "immutable: create another job",
                    field_path=".gpusPerWorker",
                )
            ]
        }
    }

    gpus_per_worker: Annotated[int, Field(ge=0, le=16)] | None = None
    """GPUs of one worker pod. Left out, as many as the largest replica of a stage needs."""
    spot: SpotCapacity = SpotCapacity()
    """Preemptible workers, taken first."""
    on_demand: OnDemandCapacity = OnDemandCapacity()
    """Workers that are not preempted."""
    fallback: Fallback = Fallback()
    """When on-demand stands in for spot."""


class FailurePolicy(StrictDocument):
    """When a job counts as failed."""

    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of rows that may fail. Above it the job fails; committed rows stay."""
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Attempts after a failure of the driver. Preemptions never count."""


class Allocation(StrictDocument):
    """How GPUs are divided among the stages."""

    policy: PolicyName = "balanced"
    """balanced (llmbatch), rayReservation (two-phase reservation) or stock (Ray Data's own autoscaler)."""
    reservation_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the GPUs reserved evenly for the stages, for rayReservation and stock."""


class Prices(StrictDocument):
    """Price of a worker an hour, in the currency of the budget."""

    spot: Annotated[float, Field(ge=0)]
    """A spot worker an hour."""
    on_demand: Annotated[float, Field(ge=0)]
    """An on-demand worker an hour."""


class Budget(StrictDocument):
    """A bound on the cost, from prices the user gives. Read in a cluster only."""

    max_cost: Annotated[float, Field(gt=0)]
    """When this is spent, the job finishes what is in flight and pauses until it is raised."""
    prices: Prices
    """What a worker costs."""


def _immutable(field: str) -> dict[str, Any]:
    return cel(f"self.{field} == oldSelf.{field}", "immutable: create another job", field_path=f".{field}")


class LLMBatchJobSpec(StrictDocument):
    """What the user wants."""

    model_config = {
        "json_schema_extra": {
            "x-kubernetes-validations": [
                _immutable("input"),
                _immutable("stages"),
                _immutable("output"),
                _immutable("shardRows"),
                _immutable("retryFailed"),
                cel(
                    "self.stages.all(s, self.stages.exists_one(t, t.name == s.name))",
                    "stage names must be unique",
                    field_path=".stages",
                ),
                cel(
                    "self.output.format != 'openai' || self.input.format == 'openai' || has(self.input.idField)",
                    "output format openai needs ids: input format openai or input.idField",
                    field_path=".output.format",
                ),
            ]
        }
    }

    input: Input
    """Where the rows come from."""
    stages: Annotated[Items[Stage], Field(min_length=1, max_length=MAX_STAGES)]
    """A chain of 1 to 8 stages."""
    output: Output
    """Where the rows go."""
    capacity: CapacitySpec = CapacitySpec()
    """Spot and on-demand workers. Read in a cluster only."""
    failure_policy: FailurePolicy = FailurePolicy()
    """When the job counts as failed."""
    allocation: Allocation = Allocation()
    """How GPUs are divided among the stages."""
    shard_rows: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Rows committed together. About 2 minutes of work or less; more for 10^8 rows and up."""
    retry_failed: bool = False
    """Run the rows again that an earlier job of the same spec left with an error in `output.uri`; keep the others."""
    suspend: bool = False
    """Stop the workers and keep what is committed."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """Time limit of the whole job, in seconds."""
    budget: Budget | None = None
    """A bound on the cost."""
    ttl_seconds_after_finished: Seconds | None = None
    """How long a finished job keeps its head, for its logs; left out, or in a Kueue queue, 0. The job itself stays."""
    image: ShortText | None = None
    """Runtime image of the Ray pods. Left out, the operator's default."""
    pod_overlay: dict[str, Any] = {}
    """Merged strategically into the Ray pods, such as volumes or a service account."""

    def worker_gpus(self) -> int:
        """Return the GPUs of one worker pod."""
        chosen = self.capacity.gpus_per_worker
        return max(stage.resources.gpus for stage in self.stages) if chosen is None else chosen

    @field_validator("stages")
    @classmethod
    def _unique(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        repeated = _repeated(stage.name for stage in stages)
        if repeated:
            raise ValueError(f"stage names must be unique, repeated: {', '.join(repeated)}")
        return stages

    @model_validator(mode="after")
    def _ids_for_openai(self) -> Self:
        needs_ids = self.output.format == "openai"
        if needs_ids and self.input.format != "openai" and self.input.id_field is None:
            raise ValueError("output.format openai needs ids: input.format openai or input.idField")
        return self


class RowProgress(Document):
    """How far the job is."""

    percentage: float | None = None
    """Completed rows by all rows, in percent; absent until the input's rows are known."""
    rows_total: int | None = None
    """Rows of the input; absent until known."""
    rows_completed: int = 0
    """Rows committed, failed ones included."""
    rows_failed: int = 0
    """Rows committed with an error."""
    estimated_remaining_seconds: int | None = None
    """Time left at the present rate."""
    prompt_tokens: int = 0
    """Tokens read by the models."""
    completion_tokens: int = 0
    """Tokens generated."""


class StageStatus(Document):
    """A stage's actor pool, as last reported."""

    name: str
    """The stage."""
    target: int = 0
    """Replicas wanted."""
    ready: int = 0
    """Replicas that take work."""
    queued_rows: int = 0
    """Rows waiting for the stage."""
    rows_per_second: float = 0.0
    """Rows finished a second."""


class CapacityStatus(Document):
    """Workers of the job."""

    workers_ready: int = 0
    """Worker pods that are ready."""
    workers_wanted: int = 0
    """Worker pods the controller asks for."""
    spot_ready: int = 0
    """Ready workers on spot capacity."""
    gpus: int = 0
    """GPUs of the ready workers."""
    fallback_workers: int = 0
    """On-demand workers that stand in for spot ones. They stand here before they are asked for."""
    fallback_since: str | None = None
    """When spot was last given up, RFC 3339; absent while nothing stands in for it."""


class Preemption(Document):
    """One notice that reached a worker of the job."""

    worker: str
    """The worker pod."""
    source: str
    """Which signal: a taint, a condition or the pod's deletion."""
    observed_at: str
    """When it was seen, RFC 3339."""
    deadline: str | None = None
    """When the node goes, RFC 3339, where known."""
    spot: bool = True
    """Whether the worker was on spot capacity."""
    age_seconds: int | None = None
    """How old the worker was."""


class Preemptions(Document):
    """How often workers were taken away."""

    total: int = 0
    """Since the job began."""
    failures: int = 0
    """Workers that ended by themselves since the job began; not in the total."""
    recent: Annotated[tuple[Preemption, ...], Field(max_length=10)] = ()
    """The last ten."""
    counted: Annotated[dict[str, str], Field(max_length=MAX_COUNTED)] = {}
    """Workers that are counted already and still exist, so that none counts twice, and since when, RFC 3339."""


class DisplayStatus(Document):
    """The columns of `kubectl get lbj`, in words; made of the figures beside them."""

    progress: str = ""
    """Completed rows, such as `42%`."""
    rows: str = ""
    """Completed and all rows, such as `1200/5000`."""
    workers: str = ""
    """Ready and wanted workers, such as `5/6`."""
    spot: str = ""
    """Share of the ready workers on spot capacity, such as `80%`."""
    eta: str = ""
    """Time left at the present rate, such as `1h20m`."""


def _map_by(key: str) -> dict[str, Any]:
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


class LLMBatchJobStatus(Document):
    """What llmbatch says of the job."""

    observed_generation: int | None = None
    """The generation this status speaks of."""
    phase: str | None = None
    """One word derived from the conditions, for display."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=_map_by("type"))] = ()
    """Accepted, ClusterReady, Running, Suspended, Degraded, Stalled, Complete, Failed."""
    attempt: int | None = None
    """Runs of the driver so far. It stands here before anything is done for it."""
    attempt_started_at: str | None = None
    """When this attempt's driver was first seen, RFC 3339; absent before."""
    failures: int = 0
    """Attempts that failed by themselves. failurePolicy.backoffLimit bounds them."""
    interruptions: int = 0
    """Attempts that lost their head to a preemption or the like. Unbounded."""
    retry_at: str | None = None
    """No driver is submitted before, RFC 3339."""
    pausing_since: str | None = None
    """Since when the driver is asked to end, RFC 3339."""
    ray_cluster_name: str | None = None
    """The RayCluster. It stands here before it is created."""
    progress: RowProgress | None = None
    """How far the job is."""
    stages: Annotated[tuple[StageStatus, ...], Field(max_length=MAX_STAGES, json_schema_extra=_map_by("name"))] = ()
    """The actor pools."""
    capacity: CapacityStatus | None = None
    """The workers."""
    preemptions: Preemptions | None = None
    """Notices and losses."""
    display: DisplayStatus | None = None
    """The same in words, for `kubectl get`. Programs read the figures."""
    estimated_cost: float | None = None
    """Worker hours times the budget's prices."""
    started_at: str | None = None
    """When the job was first accepted, RFC 3339."""
    finished_at: str | None = None
    """When the job ended, RFC 3339."""
    updated_at: str | None = None
    """When the numbers above were brought up to date, RFC 3339."""


class ObjectMeta(StrictDocument):
    """The part of Kubernetes' metadata a job file needs; the rest passes through unread."""

    model_config = {"extra": "ignore"}

    name: JobName
    """The job's name, at most 52 characters: the RayCluster's name is made of it."""
    namespace: ShortText | None = None
    """The job's namespace."""
    uid: str | None = None
    """Set by the API server."""
    generation: int | None = None
    """Set by the API server."""
    labels: dict[str, str] = {}
    """Labels."""
    annotations: dict[str, str] = {}
    """Annotations."""


class LLMBatchJob(StrictDocument):
    """The custom resource: `kubectl get lbj`."""

    api_version: Literal["llmbatch.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    """Always llmbatch.dev/v1alpha1."""
    kind: Literal["LLMBatchJob"] = KIND  # type: ignore[assignment]
    """Always LLMBatchJob."""
    metadata: ObjectMeta
    """Name and namespace."""
    spec: LLMBatchJobSpec
    """What the user wants."""
    status: LLMBatchJobStatus | None = None
    """What llmbatch says."""

    def with_output(self, uri: str) -> Self:
        """Return the job with another `output.uri`."""
        output = self.spec.output.model_copy(update={"uri": uri})
        return self.model_copy(update={"spec": self.spec.model_copy(update={"output": output})})


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]


def is_remote(uri: str) -> bool:
    """Tell whether a URI names an object store rather than a local path."""
    return re.match(r"^(?!file:)[a-z][a-z0-9+.-]*://", uri) is not None
