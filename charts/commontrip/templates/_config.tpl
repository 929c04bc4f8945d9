{{/* What a component is asked for, as the data of its ConfigMap; its secrets are in "commontrip.env". */}}
{{- define "commontrip.config" -}}
{{- $server := .root.Values.server }}
{{- $prefix := upper .component -}}
LISTEN_HOST: {{ $server.listenHost | quote }}
LOG_LEVEL: {{ $server.logLevel | quote }}
ACCESS_LOG: {{ $server.accessLog | quote }}
DRAIN_SECONDS: {{ include "commontrip.text" $server.drainSeconds | quote }}
SHUTDOWN_SECONDS: {{ include "commontrip.text" $server.shutdownSeconds | quote }}
KEEP_ALIVE_SECONDS: {{ include "commontrip.text" $server.keepAliveSeconds | quote }}
CONNECTION_AGE_SECONDS: {{ include "commontrip.text" $server.connectionAgeSeconds | quote }}
{{ $prefix }}_PORT: {{ include "commontrip.text" .values.port | quote }}
{{ $prefix }}_METRICS_PORT: {{ include "commontrip.text" $server.metricsPort | quote }}
{{ include (printf "commontrip.config.%s" .component) .root }}
{{- with include "commontrip.config.telemetry" .root }}
{{ . }}
{{- end }}
{{- end }}

{{- define "commontrip.config.gateway" -}}
{{- with .Values.gateway -}}
GATEWAY_ROUTES: {{ include "commontrip.routes" $ | quote }}
GATEWAY_FIRST_BYTE_SECONDS: {{ include "commontrip.text" .firstByteSeconds | quote }}
GATEWAY_CONNECT_SECONDS: {{ include "commontrip.text" .connectSeconds | quote }}
GATEWAY_IDLE_SECONDS: {{ include "commontrip.text" .idleSeconds | quote }}
GATEWAY_CONCURRENCY: {{ include "commontrip.text" .concurrency | quote }}
GATEWAY_STREAMS: {{ include "commontrip.text" .streams | quote }}
GATEWAY_BODY_BYTES: {{ include "commontrip.text" .bodyBytes | quote }}
GATEWAY_SKIP_SECONDS: {{ include "commontrip.text" .skipSeconds | quote }}
GATEWAY_TRUST_FORWARDED: {{ .trustForwarded | quote }}
{{- end }}
{{- end }}

{{/* /prefix=address,…;/prefix=…: the chart's own route to profile, and gateway.routes, which go before it. */}}
{{- define "commontrip.routes" -}}
{{- $own := include "commontrip.address" (dict "root" . "component" "profile") }}
{{- $parts := list }}
{{- range $prefix, $addresses := merge (dict) .Values.gateway.routes (dict "/profile" (list $own)) }}
{{- $parts = append $parts (printf "%s=%s" $prefix (tpl (join "," $addresses) $)) }}
{{- end }}
{{- join ";" $parts }}
{{- end }}

{{- define "commontrip.config.profile" -}}
{{- $auth := include "commontrip.address" (dict "root" . "component" "auth") }}
{{- with .Values.profile -}}
PROFILE_PEOPLE_PATH: {{ .peoplePath | quote }}
PROFILE_AUTH_URL: {{ .auth.url | default $auth | quote }}
PROFILE_AUTH_TIMEOUT_SECONDS: {{ include "commontrip.text" .auth.timeoutSeconds | quote }}
PROFILE_AUTH_CONNECT_SECONDS: {{ include "commontrip.text" .auth.connectSeconds | quote }}
PROFILE_AUTH_CONNECTIONS: {{ include "commontrip.text" .auth.connections | quote }}
PROFILE_FALLBACK: {{ .fallback.answer | quote }}
PROFILE_FALLBACK_AGE_SECONDS: {{ include "commontrip.text" .fallback.ageSeconds | quote }}
PROFILE_FALLBACK_USERS: {{ include "commontrip.text" .fallback.users | quote }}
{{- with .breaker }}
PROFILE_BREAKER_ENABLED: {{ .enabled | quote }}
PROFILE_BREAKER_FAILURE_RATE: {{ include "commontrip.text" .failureRate | quote }}
PROFILE_BREAKER_MINIMUM_CALLS: {{ include "commontrip.text" .minimumCalls | quote }}
PROFILE_BREAKER_CONSECUTIVE_FAILURES: {{ include "commontrip.text" .consecutiveFailures | quote }}
PROFILE_BREAKER_SLOW_CALL_RATE: {{ include "commontrip.text" .slowCallRate | quote }}
PROFILE_BREAKER_SLOW_CALL_SECONDS: {{ include "commontrip.text" .slowCallSeconds | quote }}
PROFILE_BREAKER_WINDOW_SECONDS: {{ include "commontrip.text" .windowSeconds | quote }}
PROFILE_BREAKER_COOLDOWN_SECONDS: {{ include "commontrip.text" .cooldownSeconds | quote }}
PROFILE_BREAKER_COOLDOWN_FACTOR: {{ include "commontrip.text" .cooldownFactor | quote }}
PROFILE_BREAKER_COOLDOWN_MAXIMUM_SECONDS: {{ include "commontrip.text" .cooldownMaximumSeconds | quote }}
PROFILE_BREAKER_COOLDOWN_JITTER: {{ include "commontrip.text" .cooldownJitter | quote }}
PROFILE_BREAKER_PROBES: {{ include "commontrip.text" .probes | quote }}
PROFILE_BREAKER_SUCCESS_RATIO: {{ include "commontrip.text" .successRatio | quote }}
PROFILE_BREAKER_PROBE_LEASE_SECONDS: {{ include "commontrip.text" .probeLeaseSeconds | quote }}
PROFILE_BREAKER_PROBE_LIMIT_SECONDS: {{ include "commontrip.text" .probeLimitSeconds | quote }}
PROFILE_BREAKER_STORE_BUDGET_SECONDS: {{ include "commontrip.text" .storeBudgetSeconds | quote }}
PROFILE_BREAKER_TTL_SECONDS: {{ include "commontrip.text" .ttlSeconds | quote }}
{{- end }}
{{- end }}
{{ include "commontrip.redis.config" . }}
{{- end }}

{{- define "commontrip.config.auth" -}}
{{- with .Values.auth -}}
AUTH_USERS_PATH: {{ .usersPath | quote }}
AUTH_FAULTS: {{ .faults.enabled | quote }}
AUTH_FAULT_MAX_SECONDS: {{ include "commontrip.text" .faults.maxSeconds | quote }}
{{- end }}
{{- if .Values.auth.faults.enabled }}
{{ include "commontrip.redis.config" . }}
{{- end }}
{{- end }}

{{/* Without an endpoint nothing is exported; metrics are told on their port all the same. */}}
{{- define "commontrip.config.telemetry" -}}
{{- with .Values.telemetry }}
{{- if .otlpEndpoint -}}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ .otlpEndpoint | quote }}
OTEL_EXPORTER_OTLP_TIMEOUT: {{ include "commontrip.text" .otlpTimeoutSeconds | quote }}
OTEL_TRACES_SAMPLER: {{ .sampler | quote }}
OTEL_TRACES_SAMPLER_ARG: {{ include "commontrip.text" .samplerArgument | quote }}
OTEL_PROPAGATORS: {{ .propagators | quote }}
{{- end }}
{{- end }}
{{- end }}
