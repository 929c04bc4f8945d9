{{/* Name of every object. The parent chart has the same rule in "commontrip.redis.name". */}}
{{- define "redis.name" -}}
{{- .Values.fullnameOverride | default (printf "%s-redis" (.Release.Name | trunc 50 | trimSuffix "-")) -}}
{{- end }}

{{- define "redis.selector" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: redis
{{- end }}

{{/* The pod has no label that changes with the chart's version: it would be replaced, and its memory is gone. */}}
{{- define "redis.labels" -}}
{{ include "redis.selector" . }}
app.kubernetes.io/part-of: commontrip
app.kubernetes.io/version: {{ .Values.image.tag | splitList "@" | first | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with (.Values.global).commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A digest beats the tag. */}}
{{- define "redis.image" -}}
{{- with (.Values.global).imageRegistry }}{{ . }}/{{ end -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end }}

{{- define "redis.pullSecrets" -}}
{{- with concat (.Values.imagePullSecrets) ((.Values.global).imagePullSecrets | default list) | uniq -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "redis.secretName" -}}
{{- .Values.auth.existingSecret | default (include "redis.name" .) -}}
{{- end }}

{{/* The generated password: what the cluster has already, else a new one, the same for the whole render. */}}
{{- define "redis.password" -}}
{{- if not (hasKey .Values.auth "generated") }}
{{- $there := (lookup "v1" "Secret" .Release.Namespace (include "redis.name" .)).data | default dict }}
{{- $_ := set .Values.auth "generated" (get $there .Values.auth.existingSecretKey | b64dec | default (randAlphaNum 32)) }}
{{- end }}
{{- .Values.auth.generated -}}
{{- end }}

{{/* What the library, its command line, profile's memory, auth's faults, their scripts, and people at redis-cli use. */}}
{{- define "redis.commands" -}}
+ping +select +client|setinfo +client|setname +time +evalsha +eval +script|load +script|exists
+subscribe +unsubscribe +publish +scan +get +mget +set +del +type +pttl +ttl +pexpire
+hset +hmget +hgetall +hlen +zadd +zrem +zcard +zscore +zrange +zremrangebyscore +xadd +xrevrange
{{- end }}
