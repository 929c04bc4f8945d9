{{/* Where Redis is, as the data of a ConfigMap. */}}
{{- define "commontrip.redis.config" -}}
{{- $outer := .Values.externalRedis -}}
{{- if .Values.redis.enabled -}}
REDIS_URL: redis://{{ include "commontrip.redis.name" . }}:{{ include "commontrip.text" .Values.redis.port }}/0
REDIS_USERNAME: {{ .Values.redis.auth.username | quote }}
{{- else }}
{{- if not $outer.urlKey -}}
REDIS_URL: {{ include "commontrip.redis.url" . | quote }}
{{ end -}}
{{- if not $outer.usernameKey -}}
REDIS_USERNAME: {{ $outer.username | quote }}
{{- end }}
{{- if and $outer.tls.existingSecret $outer.tls.caKey }}
SSL_CERT_FILE: /etc/commontrip/redis/{{ $outer.tls.caKey }}
{{- end }}
{{- end }}
REDIS_PREFIX: {{ include "commontrip.redis.prefix" . | quote }}
{{- end }}

{{- define "commontrip.redis.prefix" -}}
{{- ternary .Values.redis.prefix .Values.externalRedis.prefix .Values.redis.enabled -}}
{{- end }}

{{/* The address of an external Redis, without user and password. */}}
{{- define "commontrip.redis.url" -}}
{{- $outer := .Values.externalRedis }}
{{- $scheme := ternary "rediss" "redis" $outer.tls.enabled }}
{{- $database := include "commontrip.text" $outer.database }}
{{- if $outer.url }}{{ $outer.url }}
{{- else if $outer.sentinel.hosts }}{{ printf "%s+sentinel://%s/%s?db=%s" $scheme (join "," $outer.sentinel.hosts) $outer.sentinel.masterName $database }}
{{- else if $outer.cluster.nodes }}{{ printf "%s+cluster://%s" $scheme (join "," $outer.cluster.nodes) }}
{{- else }}{{ printf "%s://%s:%s/%s" $scheme $outer.host (include "commontrip.text" $outer.port) $database }}
{{- with $outer.tls }}{{ if .certKey }}{{ printf "?ssl_certfile=/etc/commontrip/redis/%s&ssl_keyfile=/etc/commontrip/redis/%s" .certKey .keyKey }}{{ end }}{{ end }}
{{- end }}
{{- end }}

{{/* What of it is secret, as a list of environment variables. */}}
{{- define "commontrip.redis.env" -}}
{{- if .Values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.auth.existingSecret | default (include "commontrip.redis.name" .) }}
      key: {{ .Values.redis.auth.existingSecretKey }}
{{- else }}
{{- with .Values.externalRedis }}
{{- range $variable, $key := dict "REDIS_URL" .urlKey "REDIS_USERNAME" .usernameKey "REDIS_PASSWORD" .passwordKey }}
{{- if and $key $.Values.externalRedis.existingSecret }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.externalRedis.existingSecret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Ports at which Redis may be, for the policies: those of the address, and of where Sentinels or nodes lead to. */}}
{{- define "commontrip.redis.ports" -}}
{{- $outer := .Values.externalRedis }}
{{- $url := include "commontrip.redis.url" . }}
{{- $ports := list }}
{{- if or $outer.urlKey (contains "+" (splitList ":" $url | first)) }}{{ $ports = list (int $outer.port) }}{{ end }}
{{- if .Values.redis.enabled }}{{ $ports = list (int .Values.redis.port) }}
{{- else if not $outer.urlKey }}
{{- range include "commontrip.redis.places" . | splitList "," }}
{{- $usual := ternary 26379 6379 (contains "+sentinel:" $url) }}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default $usual | int) }}
{{- end }}
{{- end }}
{{- $ports | uniq | join "," }}
{{- end }}

{{/* The places in that address, such as a:26379,b:26379. */}}
{{- define "commontrip.redis.places" -}}
{{- include "commontrip.redis.url" . | regexFind "//[^/?]+" | trimPrefix "//" -}}
{{- end }}
