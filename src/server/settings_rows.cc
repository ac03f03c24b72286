// The rows of the table. One place a key, on purpose: longer than other files, and read like a dictionary.
#include "server/settings_table.h"

namespace bloomery {
namespace {

using enum SettingScope;
using enum SettingUse;
using enum SettingType;

// What several keys have in common.
constexpr std::string_view kOneEngine =
    "One engine with every core computes all requests together; a second copy would take its memory and "
    "bandwidth";
constexpr std::string_view kNoHandler = "No Python handler runs";
constexpr std::string_view kNoGpu = "The engine runs on processors";
constexpr std::string_view kNoJava = "There is no Java";
constexpr std::string_view kNoTls = "The server speaks plain HTTP; put a proxy in front";
constexpr std::string_view kNoCors = "The server sends no CORS headers; put a proxy in front";
constexpr std::string_view kHealth = "/ping tells the engine's state; errors are counted in /metrics";
constexpr std::string_view kOtherScript = "The entry point is option.entryPoint, or model.py";
constexpr std::string_view kBatchTransform = "Requests of a batch transform are ordinary ones";
constexpr std::string_view kWholeContext =
    "A prompt may fill the context (option.max_model_len); a request's own \"truncate\" shortens it";
constexpr std::string_view kPromptsBeside =
    "Prompts are read beside running sequences (--max-prefill-tokens)";
constexpr std::string_view kGuesses = "Tokens are guessed from the text itself (--speculative-tokens)";

// clang-format off
constexpr Setting kSettings[] = {
    // --- where the model is ---
    {.name = "option.model_id", .scope = kOption, .use = kHonoured, .aliases = "HF_MODEL_ID",
     .for_handlers = true, .help = "Where the model is: a directory, s3://bucket/prefix/, or a hub's id; without it, the directory itself"},
    {.name = "option.s3url", .scope = kOption, .use = kMapped, .for_handlers = true,
     .help = "Where the model is in S3, as 2023's containers spelled it", .effect = "option.model_id; both are an error"},
    {.name = "MODEL_S3_BUCKET", .scope = kEnvironment, .use = kMapped, .for_handlers = true,
     .help = "The bucket from which the notebooks' model.py downloads", .effect = "With MODEL_S3_PREFIX and without option.model_id: s3://bucket/prefix/"},
    {.name = "MODEL_S3_PREFIX", .scope = kEnvironment, .use = kMapped, .for_handlers = true,
     .help = "What the keys of the model begin with in that bucket", .effect = "With MODEL_S3_BUCKET: s3://bucket/prefix/"},
    {.name = "option.revision", .scope = kOption, .use = kHonoured, .aliases = "HF_REVISION HF_MODEL_REVISION",
     .for_handlers = true, .help = "Branch, tag or commit of the hub's model"},
    {.name = "option.task", .scope = kOption, .use = kHonoured, .type = kChoice, .choices = "text-generation auto", .default_value = "text-generation", .aliases = "HF_TASK",
     .for_handlers = true, .help = "What the model does; other tasks are refused"},
    {.name = "option.trust_remote_code", .scope = kOption, .use = kIgnored, .type = kBoolean, .default_value = "false", .aliases = "HF_TRUST_REMOTE_CODE HF_MODEL_TRUST_REMOTE_CODE",
     .for_handlers = true, .help = "Whether code beside the weights may run", .effect = "The native engine runs no code of a model; an architecture that is not built in is described (docs/reference/architectures.md)"},

    // --- who runs it ---
    {.name = "engine", .scope = kModel, .use = kMapped, .type = kChoice, .choices = "DeepSpeed MPI Python Rubikon Native", .default_value = "inferred",
     .for_handlers = true, .help = "Who runs the model", .effect = "Native always is the native engine; the others are a Python handler where there is a model.py or another entry point, and the native engine where there is none"},
    {.name = "option.entryPoint", .scope = kOption, .use = kMapped, .default_value = "model.py, if there",
     .for_handlers = true, .help = "The handler: a .py file, a module, or a built-in one", .effect = "djl_python.deepspeed, djl_python.huggingface and the other built-in handlers of text generation are the native engine"},
    {.name = "option.handler", .scope = kOption, .use = kIgnored, .default_value = "handle",
     .for_handlers = true, .help = "The function of model.py that is called", .effect = kNoHandler},
    {.name = "option.pythonExecutable", .scope = kOption, .use = kIgnored, .default_value = "python3", .aliases = "PYTHON_EXECUTABLE",
     .for_handlers = true, .help = "The Python that runs model.py", .effect = kNoHandler},
    {.name = "option.env", .scope = kOption, .use = kIgnored, .type = kSecret,
     .for_handlers = true, .help = "Variables for the Python process: A=1,B=2", .effect = kNoHandler},
    {.name = "option.enable_venv", .scope = kOption, .use = kIgnored, .type = kBoolean, .default_value = "false",
     .for_handlers = true, .help = "A Python environment of the model's own", .effect = kNoHandler},
    {.name = "option.parallel_loading", .scope = kOption, .use = kIgnored, .type = kBoolean, .default_value = "false",
     .for_handlers = true, .help = "Whether workers load at the same time", .effect = "There is one engine, and all its ranks load at the same time"},
    {.name = "option.mpi_mode", .scope = kOption, .use = kIgnored, .type = kBoolean,
     .for_handlers = true, .help = "Whether mpirun starts the Python processes", .effect = "mpirun starts the ranks wherever there are several"},
    {.name = "option.cluster_size", .scope = kOption, .use = kIgnored, .type = kInteger, .minimum = 1, .default_value = "1",
     .for_handlers = true, .help = "Hosts that share the model", .effect = "Name the hosts with --hostfile"},

    // --- how it is cut ---
    {.name = "option.tensor_parallel_degree", .scope = kOption, .use = kHonoured, .type = kDegree, .minimum = 1, .maximum = 1024, .default_value = "1", .flag = "--tp", .aliases = "TENSOR_PARALLEL_DEGREE SM_NUM_GPUS",
     .for_handlers = true, .help = "Ranks that share every layer; max: one for each NUMA node of the host"},
    {.name = "option.pipeline_parallel_degree", .scope = kOption, .use = kHonoured, .type = kDegree, .minimum = 1, .maximum = 1024, .default_value = "1", .flag = "--pp",
     .for_handlers = true, .help = "Stages of consecutive layers; max: one for each NUMA node that --tp leaves"},
    {.name = "option.device_map", .scope = kOption, .use = kIgnored,
     .for_handlers = true, .help = "Accelerate's placement of layers", .effect = "Ranks are placed by --tp and --pp, and layers beyond memory by --placement"},
    {.name = "option.device_id", .scope = kOption, .use = kIgnored,
     .for_handlers = true, .help = "The GPU of a worker", .effect = "Ranks are bound to cores by the host's topology"},
    {.name = "load_on_devices", .scope = kModel, .use = kIgnored, .default_value = "*", .server_wide = true,
     .for_handlers = true, .help = "Devices that get a copy of the model", .effect = "There is one copy, on the processors"},
    {.name = "option.checkpoint", .scope = kOption, .use = kHonoured, .type = kChoice, .choices = "ds_inference_config.json",
     .for_handlers = true, .help = "The list of files of a checkpoint that DeepSpeed has cut; found without being named"},
    {.name = "option.save_mp_checkpoint_path", .scope = kOption, .use = kIgnored,
     .for_handlers = true, .help = "Where to write a checkpoint that is cut", .effect = "A server writes nothing; `bloomery shard` cuts and packs ahead of time"},

    // --- its numbers ---
    {.name = "option.dtype", .scope = kOption, .use = kHonoured, .type = kChoice, .choices = "auto fp32 float32 f32 fp16 float16 f16 bf16 bfloat16 int8 int4", .default_value = "auto", .flag = "--dtype",
     .for_handlers = true, .help = "Weights in memory; auto: as the checkpoint has them"},
    {.name = "option.data_type", .scope = kOption, .use = kMapped, .type = kChoice, .choices = "auto fp32 float32 f32 fp16 float16 f16 bf16 bfloat16 int8 int4",
     .for_handlers = true, .help = "The oldest name of option.dtype", .effect = "option.dtype, where that is not set"},
    {.name = "option.quantize", .scope = kOption, .use = kMapped, .type = kChoice, .choices = "none false null bitsandbytes bitsandbytes8 bitsandbytes4 bitsandbytes-nf4 bitsandbytes-fp4 dynamic_int8 smoothquant int8 int4", .default_value = "none", .flag = "--dtype", .aliases = "HF_MODEL_QUANTIZE",
     .for_handlers = true, .help = "How weights are rounded while they load", .effect = "bitsandbytes, bitsandbytes8, dynamic_int8, smoothquant: int8; bitsandbytes4, -nf4, -fp4: int4. Checkpoints that are quantised already (awq, gptq, fp8 …) are refused: name the unquantised one, with int8 or int4"},
    {.name = "option.load_in_8bit", .scope = kOption, .use = kMapped, .type = kBoolean, .default_value = "false",
     .for_handlers = true, .help = "An older option.quantize=bitsandbytes8", .effect = "int8"},
    {.name = "option.load_in_4bit", .scope = kOption, .use = kMapped, .type = kBoolean, .default_value = "false",
     .for_handlers = true, .help = "An older option.quantize=bitsandbytes4", .effect = "int4"},
    {.name = "option.smoothquant_alpha", .scope = kOption, .use = kIgnored,
     .for_handlers = true, .help = "How SmoothQuant divides between weights and activations", .effect = "Activations are scaled per token and group while serving; there is nothing to divide"},
    {.name = "option.kv_cache_dtype", .scope = kOption, .use = kMapped, .type = kChoice, .choices = "auto fp32 float32 fp16 float16 bf16 bfloat16 int8", .default_value = "auto", .flag = "--kv-dtype",
     .for_handlers = true, .help = "Numbers of the KV cache", .effect = "--kv-dtype; fp8 is refused, int8 takes as little"},
    {.name = "option.low_cpu_mem_usage", .scope = kOption, .use = kIgnored, .type = kBoolean, .default_value = "true",
     .for_handlers = true, .help = "Whether to load without a second copy", .effect = "Checkpoints are mapped, so there never is one"},

    // --- batches and queues ---
    {.name = "job_queue_size", .scope = kModel, .use = kMapped, .type = kInteger, .minimum = 1, .default_value = "1000", .flag = "--max-requests", .aliases = "MAX_CONCURRENT_REQUESTS", .server_wide = true,
     .for_handlers = true, .help = "Requests that may wait; more get 503", .effect = "--max-requests, which counts those in progress too: this, and option.max_rolling_batch_size"},
    {.name = "option.rolling_batch", .scope = kOption, .use = kMapped, .type = kChoice, .choices = "auto disable scheduler lmi-dist vllm trtllm deepspeed tnx", .default_value = "auto",
     .for_handlers = true, .help = "Whether requests join a running batch, and whose batching it is", .effect = "Requests always join the native engine's running batch, which changes no token of theirs, whatever is named here"},
    {.name = "option.max_rolling_batch_size", .scope = kOption, .use = kMapped, .type = kInteger, .minimum = 1, .default_value = "32", .flag = "--max-batch-size", .aliases = "MAX_BATCH_SIZE",
     .for_handlers = true, .help = "Sequences computed together", .effect = "--max-batch-size, 4096 at most"},
    {.name = "option.max_rolling_batch_prefill_tokens", .scope = kOption, .use = kMapped, .type = kInteger, .minimum = 1, .flag = "--max-batch-tokens", .aliases = "MAX_BATCH_PREFILL_TOKENS",
     .for_handlers = true, .help = "Prompt tokens computed in one step", .effect = "--max-batch-tokens, 65536 at most; longer prompts are cut to fit, not refused"},
    {.name = "option.max_num_batched_tokens", .scope = kOption, .use = kMapped, .type = kInteger, .minimum = 1,
     .for_handlers = true, .help = "vLLM's name for it", .effect = "option.max_rolling_batch_prefill_tokens, where that is not set"},
    {.name = "MAX_BATCH_TOTAL_TOKENS", .scope = kEnvironment, .use = kIgnored,
     .help = "Tokens of all requests together in text-generation-inference", .effect = "The KV cache is sized by --kv-cache-memory, and requests wait for room in it"},
    {.name = "MAX_WAITING_TOKENS", .scope = kEnvironment, .use = kIgnored,
     .help = "Steps after which waiting prompts go first in text-generation-inference", .effect = kPromptsBeside},
    {.name = "option.waiting_steps", .scope = kOption, .use = kIgnored,
     .for_handlers = true, .help = "The same for LMI-dist", .effect = kPromptsBeside},
    {.name = "batch_size", .scope = kModel, .use = kMapped, .type = kInteger, .minimum = 1, .default_value = "1", .server_wide = true,
     .for_handlers = true, .help = "Requests handed to a handler at once", .effect = "Native engine: sequences computed together, where option.max_rolling_batch_size is not set and this is above its default"},
    {.name = "max_batch_delay", .scope = kModel, .use = kIgnored, .type = kInteger, .default_value = "100", .server_wide = true,
     .for_handlers = true, .help = "Milliseconds to wait for a batch to fill", .effect = "The native engine lets a request join a running batch at once"},
    {.name = "minWorkers", .scope = kModel, .use = kIgnored, .type = kInteger, .default_value = "1", .overriding = "SAGEMAKER_NUM_MODEL_WORKERS",
     .for_handlers = true, .help = "Copies of the model to start with", .effect = kOneEngine},
    {.name = "maxWorkers", .scope = kModel, .use = kIgnored, .type = kInteger, .default_value = "1", .overriding = "SAGEMAKER_NUM_MODEL_WORKERS",
     .for_handlers = true, .help = "Copies under load", .effect = kOneEngine},
    {.name = "cpu.minWorkers", .scope = kModel, .use = kIgnored, .for_handlers = true, .help = "minWorkers without a GPU", .effect = kOneEngine},
    {.name = "cpu.maxWorkers", .scope = kModel, .use = kIgnored, .for_handlers = true, .help = "maxWorkers without a GPU", .effect = kOneEngine},
    {.name = "gpu.minWorkers", .scope = kModel, .use = kIgnored, .for_handlers = true, .help = "minWorkers on each GPU", .effect = kOneEngine},
    {.name = "gpu.maxWorkers", .scope = kModel, .use = kIgnored, .for_handlers = true, .help = "maxWorkers on each GPU", .effect = kOneEngine},
    {.name = "SAGEMAKER_MODEL_SERVER_WORKERS", .scope = kEnvironment, .use = kIgnored,
     .help = "Workers in SageMaker's other containers", .effect = kOneEngine},
    {.name = "max_idle_time", .scope = kModel, .use = kIgnored, .type = kInteger, .default_value = "60", .server_wide = true,
     .for_handlers = true, .help = "Seconds after which a worker beyond minWorkers ends", .effect = "There are no temporary workers"},
    {.name = "retry_threshold", .scope = kModel, .use = kIgnored, .type = kInteger, .default_value = "0",
     .for_handlers = true, .help = "Crashes after which a model counts as failed", .effect = "An engine that dies is started again and its requests go on; three starts in a row that fail are given up"},

    // --- memory ---
    {.name = "required_memory_mb", .scope = kModel, .use = kIgnored, .type = kInteger, .default_value = "0",
     .for_handlers = true, .help = "MB that must be free to load the model", .effect = "What the weights and the KV cache take is computed and compared with what is free before they load"},
    {.name = "gpu.required_memory_mb", .scope = kModel, .use = kIgnored, .for_handlers = true, .help = "The same on a GPU", .effect = kNoGpu},
    {.name = "reserved_memory_mb", .scope = kModel, .use = kIgnored, .type = kInteger, .default_value = "500", .server_wide = true,
     .for_handlers = true, .help = "MB to leave free", .effect = "The KV cache takes at most half of what the weights leave (--kv-cache-memory)"},
    {.name = "gpu.reserved_memory_mb", .scope = kModel, .use = kIgnored, .for_handlers = true, .help = "The same on a GPU", .effect = kNoGpu},
    {.name = "option.gpu_memory_utilization", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "vLLM's share of the GPU's memory", .effect = "The engine runs on processors; --kv-cache-memory sizes the KV cache"},
    {.name = "option.swap_space", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "vLLM's swap for the KV cache", .effect = "A sequence that must make room is computed again"},

    // --- lengths and time ---
    {.name = "option.max_model_len", .scope = kOption, .use = kMapped, .type = kInteger, .minimum = 1, .flag = "--max-context-tokens", .aliases = "MAX_TOTAL_TOKENS",
     .for_handlers = true, .help = "Longest prompt and answer together", .effect = "--max-context-tokens"},
    {.name = "option.max_tokens", .scope = kOption, .use = kMapped, .type = kInteger, .minimum = 1,
     .for_handlers = true, .help = "DeepSpeed's room for a prompt and its answer (there 1024)", .effect = "--max-context-tokens; the smaller, where option.max_model_len is set too"},
    {.name = "MAX_INPUT_LENGTH", .scope = kEnvironment, .use = kIgnored,
     .help = "Longest prompt in text-generation-inference", .effect = kWholeContext},
    {.name = "MAX_INPUT_TOKENS", .scope = kEnvironment, .use = kIgnored, .help = "A newer name of MAX_INPUT_LENGTH", .effect = kWholeContext},
    {.name = "option.predict_timeout", .scope = kOption, .use = kMapped, .type = kInteger, .minimum = 1, .flag = "--request-timeout", .overriding = "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", .aliases = "SAGEMAKER_MODEL_SERVER_TIMEOUT",
     .for_handlers = true, .help = "Seconds an answer may take (there 120; 240 for images)", .effect = "--request-timeout. Not set, there is no limit: an engine that hangs is restarted (--step-timeout), one that is slow is let work"},
    {.name = "option.model_loading_timeout", .scope = kOption, .use = kIgnored, .type = kInteger, .minimum = 1, .overriding = "SAGEMAKER_STARTUP_TIMEOUT",
     .for_handlers = true, .help = "Seconds that loading may take (there 240; 1200 for images)", .effect = "Loading has no limit; /ping answers 503 with the progress until the model is ready"},
    {.name = "chunked_read_timeout", .scope = kServer, .use = kIgnored, .type = kInteger, .help = "Seconds to wait for a handler's next piece of a stream", .effect = "--step-timeout watches the engine"},

    // --- answers ---
    {.name = "option.output_formatter", .scope = kOption, .use = kMapped, .type = kChoice, .choices = "json jsonlines sse", .default_value = "json",
     .for_handlers = true, .help = "The form of answers: json, jsonlines, sse, or a function of model.py", .effect = "json as it is. jsonlines and sse are what a request gets that says \"stream\": true, sse where it accepts text/event-stream; others are answered with json"},
    {.name = "option.input_formatter", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "A function of model.py that reads requests", .effect = kNoHandler},
    {.name = "option.enable_streaming", .scope = kOption, .use = kIgnored, .type = kChoice, .choices = "true false huggingface", .default_value = "false",
     .for_handlers = true, .help = "Whether answers stream (older containers)", .effect = "A request that says \"stream\": true is streamed"},
    {.name = "option.max_output_size", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "Largest answer of a handler in bytes", .effect = "Answers are as long as their tokens"},
    {.name = "option.tgi_compat", .scope = kOption, .use = kIgnored, .type = kBoolean, .default_value = "false", .for_handlers = true, .help = "Answers in text-generation-inference's form", .effect = "/generate and /generate_stream always answer so"},

    // --- how other engines compute ---
    {.name = "option.enable_prefix_caching", .scope = kOption, .use = kMapped, .type = kBoolean, .default_value = "true", .flag = "--no-prefix-cache",
     .for_handlers = true, .help = "Whether prompts reuse what earlier ones with the same beginning computed", .effect = "false: --no-prefix-cache"},
    {.name = "option.draft_model_id", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "A small model that guesses tokens", .effect = kGuesses},
    {.name = "option.spec_length", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "How many tokens it guesses", .effect = kGuesses},
    {.name = "option.enable_lora", .scope = kOption, .use = kRefused, .type = kBoolean, .default_value = "false", .for_handlers = true, .help = "Whether to serve LoRA adapters", .effect = "There are no adapters; merge them into the weights"},
    {.name = "option.enable_cuda_graph", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "DeepSpeed's CUDA graphs", .effect = kNoGpu},
    {.name = "option.enforce_eager", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "vLLM without CUDA graphs", .effect = kNoGpu},
    {.name = "option.disable_flash_attn", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "Whether to do without FlashAttention", .effect = "There is one attention kernel"},
    {.name = "option.triangular_masking", .scope = kOption, .use = kIgnored, .type = kBoolean, .default_value = "true", .for_handlers = true, .help = "DeepSpeed's causal mask", .effect = "The model's architecture decides"},
    {.name = "option.return_tuple", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "What DeepSpeed's layers return", .effect = "There are none"},
    {.name = "option.training_mp_size", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "How DeepSpeed's training had cut the checkpoint", .effect = "The checkpoint itself says how it is cut"},
    {.name = "option.deepspeed_config_path", .scope = kOption, .use = kIgnored, .for_handlers = true, .help = "DeepSpeed's own configuration", .effect = "There is no DeepSpeed; what a model needs is in this table and in its description"},
    {.name = "translatorFactory", .scope = kModel, .use = kIgnored, .for_handlers = true, .help = "A Java class that reads requests", .effect = kNoJava},
    {.name = "log_request_metric", .scope = kModel, .use = kIgnored, .type = kBoolean, .for_handlers = true, .help = "Whether to log the time of each request", .effect = "Each request is logged with its time; /metrics has histograms"},
    {.name = "metrics_aggregation", .scope = kModel, .use = kIgnored, .type = kInteger, .for_handlers = true, .help = "Requests that a logged metric sums up", .effect = "/metrics has histograms"},

    // --- the server ---
    {.name = "inference_address", .scope = kServer, .use = kMapped, .type = kAddress, .default_value = "http://127.0.0.1:8080", .flag = "--host",
     .help = "Where to listen", .effect = "--host and --port; https is refused: put a proxy in front"},
    {.name = "SAGEMAKER_BIND_TO_PORT", .scope = kEnvironment, .use = kHonoured, .type = kInteger, .minimum = 1, .maximum = 65535, .flag = "--port",
     .help = "The port that SageMaker talks to; wins over inference_address"},
    {.name = "management_address", .scope = kServer, .use = kMapped, .type = kAddress, .flag = "--management", .help = "Where to listen for model management", .effect = "--management on, at the address where requests are answered"},
    {.name = "cluster_address", .scope = kServer, .use = kIgnored, .help = "Where to listen for other hosts", .effect = "Open MPI connects the hosts (--hostfile)"},
    {.name = "model_store", .scope = kServer, .use = kHonoured, .default_value = "/opt/ml/model, if there", .help = "The directory to serve, where none is named"},
    {.name = "load_models", .scope = kServer, .use = kMapped, .default_value = "ALL", .flag = "--model-name", .help = "What to load: ALL, NONE, or name:version:engine=path, several with commas between them", .effect = "One: --model-name, and its path is the directory's business. Several, or none, are loaded as they are named; ALL takes each directory and archive of a store that holds nothing else"},
    {.name = "wait_model_loading", .scope = kServer, .use = kIgnored, .type = kBoolean, .default_value = "true", .help = "Whether to listen only once models are loaded", .effect = "The port is bound from the start, and /ping answers 503 until the model is ready"},
    {.name = "allow_multi_status", .scope = kServer, .use = kIgnored, .type = kBoolean, .default_value = "false", .help = "Whether /ping may answer 207", .effect = "The models that the server starts with have one status together"},
    {.name = "model_url_pattern", .scope = kServer, .use = kHonoured, .help = "Regular expression that the URL of a model which is loaded by request must match as a whole"},
    {.name = "max_request_size", .scope = kServer, .use = kHonoured, .type = kInteger, .minimum = 1, .maximum = INT64_C(1) << 40, .default_value = "67108864", .flag = "--max-body-size", .overriding = "SAGEMAKER_MAX_REQUEST_SIZE SAGEMAKER_MAX_PAYLOAD_IN_MB",
     .help = "Largest request body in bytes; SAGEMAKER_MAX_PAYLOAD_IN_MB in MiB"},
    {.name = "request_id_header_key", .scope = kServer, .use = kHonoured, .default_value = "x-request-id", .help = "The request header that holds a request's id"},
    {.name = "error_rate_any", .scope = kServer, .use = kIgnored, .help = "Errors in a time after which /ping fails", .effect = kHealth},
    {.name = "error_rate_server", .scope = kServer, .use = kIgnored, .help = "The same for the server's errors", .effect = kHealth},
    {.name = "error_rate_model", .scope = kServer, .use = kIgnored, .help = "The same for the model's errors", .effect = kHealth},
    {.name = "error_rate_wlm", .scope = kServer, .use = kIgnored, .help = "The same for the queue's errors", .effect = kHealth},
    {.name = "cors_allowed_origin", .scope = kServer, .use = kIgnored, .help = "Pages that a browser lets call the server", .effect = kNoCors},
    {.name = "cors_allowed_methods", .scope = kServer, .use = kIgnored, .help = "With which methods", .effect = kNoCors},
    {.name = "cors_allowed_headers", .scope = kServer, .use = kIgnored, .help = "With which headers", .effect = kNoCors},
    {.name = "keystore", .scope = kServer, .use = kIgnored, .help = "TLS: Java's key store", .effect = kNoTls},
    {.name = "keystore_pass", .scope = kServer, .use = kIgnored, .type = kSecret, .help = "TLS: its password", .effect = kNoTls},
    {.name = "keystore_type", .scope = kServer, .use = kIgnored, .help = "TLS: its format", .effect = kNoTls},
    {.name = "certificate_file", .scope = kServer, .use = kIgnored, .help = "TLS: the certificate", .effect = kNoTls},
    {.name = "private_key_file", .scope = kServer, .use = kIgnored, .help = "TLS: its key", .effect = kNoTls},
    {.name = "number_of_netty_threads", .scope = kServer, .use = kIgnored, .help = "Threads for connections", .effect = "One thread serves all connections and never computes"},
    {.name = "use_native_io", .scope = kServer, .use = kIgnored, .help = "Java's choice of epoll", .effect = kNoJava},
    {.name = "io_ratio", .scope = kServer, .use = kIgnored, .help = "Java's share of time for connections", .effect = kNoJava},
    {.name = "plugin_folder", .scope = kServer, .use = kIgnored, .help = "Java plugins", .effect = kNoJava},

    // --- SageMaker ---
    {.name = "SAGEMAKER_MULTI_MODEL", .scope = kEnvironment, .use = kMapped, .type = kBoolean, .default_value = "false", .help = "Many models behind one endpoint", .effect = "The server starts without a model, and POST /models loads one: --management on"},
    {.name = "SAGEMAKER_SAFE_PORT_RANGE", .scope = kEnvironment, .use = kIgnored, .help = "Ports for further listeners", .effect = "One port serves all"},
    {.name = "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", .scope = kEnvironment, .use = kIgnored, .help = "Accept where a request has none", .effect = "Answers are JSON, or a stream where one is asked for"},
    {.name = "SAGEMAKER_CONTAINER_LOG_LEVEL", .scope = kEnvironment, .use = kIgnored, .help = "Python's level of logging", .effect = "--log-level says what is logged"},
    {.name = "SAGEMAKER_PROGRAM", .scope = kEnvironment, .use = kIgnored, .for_handlers = true, .help = "The script of SageMaker's other containers", .effect = kOtherScript},
    {.name = "SAGEMAKER_SUBMIT_DIRECTORY", .scope = kEnvironment, .use = kIgnored, .for_handlers = true, .help = "Where that script is", .effect = kOtherScript},
    {.name = "SAGEMAKER_REGION", .scope = kEnvironment, .use = kIgnored, .help = "The endpoint's region", .effect = "S3's region is AWS_REGION"},
    {.name = "SAGEMAKER_BATCH", .scope = kEnvironment, .use = kIgnored, .help = "Whether this is a batch transform", .effect = kBatchTransform},
    {.name = "SAGEMAKER_BATCH_STRATEGY", .scope = kEnvironment, .use = kIgnored, .help = "How it cuts its input", .effect = kBatchTransform},
    {.name = "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", .scope = kEnvironment, .use = kIgnored, .help = "How many requests it makes at once", .effect = kBatchTransform},

    // --- the hub, S3 and caches ---
    {.name = "HF_TOKEN", .scope = kEnvironment, .use = kHonoured, .type = kSecret, .aliases = "HUGGING_FACE_HUB_TOKEN", .for_handlers = true, .help = "The hub's access token"},
    {.name = "HF_HOME", .scope = kEnvironment, .use = kHonoured, .for_handlers = true, .help = "Where the hub's files are kept: under hub/"},
    {.name = "HF_HUB_CACHE", .scope = kEnvironment, .use = kHonoured, .aliases = "HUGGINGFACE_HUB_CACHE TRANSFORMERS_CACHE", .for_handlers = true, .help = "Where the hub's files are kept, without HF_HOME's hub/"},
    {.name = "HF_ENDPOINT", .scope = kEnvironment, .use = kHonoured, .for_handlers = true, .help = "The hub's address, for mirrors"},
    {.name = "HF_HUB_OFFLINE", .scope = kEnvironment, .use = kHonoured, .aliases = "TRANSFORMERS_OFFLINE", .for_handlers = true, .help = "Whether to use only what has been downloaded"},
    {.name = "HF_HUB_ENABLE_HF_TRANSFER", .scope = kEnvironment, .use = kIgnored, .for_handlers = true, .help = "Whether Python downloads with several connections", .effect = "Downloads always do"},
    {.name = "DJL_CACHE_DIR", .scope = kEnvironment, .use = kIgnored, .help = "Where DJL keeps what it downloads", .effect = "Downloads are kept where HF_HUB_CACHE or HF_HOME says"},
    {.name = "AWS_ACCESS_KEY_ID", .scope = kEnvironment, .use = kHonoured, .type = kSecret, .for_handlers = true, .help = "For s3://"},
    {.name = "AWS_SECRET_ACCESS_KEY", .scope = kEnvironment, .use = kHonoured, .type = kSecret, .for_handlers = true, .help = "For s3://"},
    {.name = "AWS_SESSION_TOKEN", .scope = kEnvironment, .use = kHonoured, .type = kSecret, .for_handlers = true, .help = "For s3://"},
    {.name = "AWS_REGION", .scope = kEnvironment, .use = kHonoured, .type = kSecret, .aliases = "AWS_DEFAULT_REGION", .for_handlers = true, .help = "For s3://"},
    {.name = "AWS_ENDPOINT_URL", .scope = kEnvironment, .use = kHonoured, .type = kSecret, .for_handlers = true, .help = "For s3:// elsewhere than at AWS"},
    {.name = "AWS_ENDPOINT_URL_S3", .scope = kEnvironment, .use = kHonoured, .type = kSecret, .for_handlers = true, .help = "The same, for S3 alone"},

    // --- Java ---
    {.name = "JAVA_OPTS", .scope = kEnvironment, .use = kIgnored, .type = kSecret, .help = "Options of Java", .effect = kNoJava},
    {.name = "SERVING_OPTS", .scope = kEnvironment, .use = kIgnored, .type = kSecret, .help = "Further options of Java", .effect = kNoJava},
    {.name = "DEFAULT_JVM_OPTS", .scope = kEnvironment, .use = kIgnored, .type = kSecret, .help = "Further options of Java", .effect = kNoJava},
    {.name = "MODEL_SERVER_HOME", .scope = kEnvironment, .use = kIgnored, .help = "Where DJL Serving is installed", .effect = "config.properties is read from the model's directory"},
};
// clang-format on

}  // namespace

std::span<const Setting> Settings() { return kSettings; }

}  // namespace bloomery
