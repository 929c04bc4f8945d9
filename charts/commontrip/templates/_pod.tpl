{{/* The objects of a component that runs, one template for all: takes root, component and values. */}}
{{- define "commontrip.deployment" -}}
{{- $server := .root.Values.server -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "commontrip.name" . }}
  labels:
    {{- include "commontrip.labels" . | nindent 4 }}
spec:
  {{- if not .values.autoscaling.enabled }}
  replicas: {{ int .values.replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  selector:
    matchLabels:
      {{- include "commontrip.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "commontrip.podLabels" . | nindent 8 }}
        {{- if include "commontrip.usesInnerRedis" . }}
        {{ include "commontrip.redis.name" .root }}-client: "true"
        {{- end }}
        {{- with .values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/config: {{ include "commontrip.config" . | sha256sum }}
        {{- if and (include "commontrip.usesInnerRedis" .) (not .root.Values.redis.auth.existingSecret) }}
        checksum/password: {{ include "redis.password" .root.Subcharts.redis | sha256sum }}
        {{- end }}
        {{- with .values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- with include "commontrip.pullSecrets" .root }}
      {{- . | nindent 6 }}
      {{- end }}
      serviceAccountName: {{ include "commontrip.serviceAccountName" . }}
      automountServiceAccountToken: false
      enableServiceLinks: false # their variables would look like settings
      terminationGracePeriodSeconds: {{ include "commontrip.gracePeriod" .root }}
      securityContext:
        {{- include "commontrip.podSecurity" .root | nindent 8 }}
      containers:
        - name: {{ .component }}
          image: {{ include "commontrip.image" . | quote }}
          imagePullPolicy: {{ .values.image.pullPolicy }}
          {{- with .values.command }}
          command:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with .values.args }}
          args:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          envFrom:
            - configMapRef:
                name: {{ include "commontrip.name" . }}
            {{- with .values.extraEnvFrom }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          env:
            {{- include "commontrip.env" . | trim | nindent 12 }}
          ports:
            - name: http
              containerPort: {{ int .values.port }}
              protocol: TCP
            - name: metrics
              containerPort: {{ int $server.metricsPort }}
              protocol: TCP
          {{- range $probe, $path := dict "startup" "/healthz" "liveness" "/healthz" "readiness" "/readyz" }}
          {{ $probe }}Probe:
            httpGet:
              path: {{ $path }}
              port: http
            {{- range $key, $value := index $.root.Values.probes $probe }}
            {{ $key }}: {{ int $value }}
            {{- end }}
          {{- end }}
          lifecycle:
            preStop:
              sleep:
                seconds: {{ int $server.preStopSeconds }}
          securityContext:
            {{- include "commontrip.containerSecurity" .root | nindent 12 }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
            {{- if include "commontrip.redisFiles" . }}
            - name: redis
              mountPath: /etc/commontrip/redis
              readOnly: true
            {{- end }}
            {{- with .values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir:
            sizeLimit: 16Mi
        {{- with include "commontrip.redisFiles" . }}
        - name: redis
          secret:
            secretName: {{ . }}
        {{- end }}
        {{- with .values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      topologySpreadConstraints:
        {{- if .values.topologySpreadConstraints }}
        {{- toYaml .values.topologySpreadConstraints | nindent 8 }}
        {{- else }}
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "commontrip.selector" . | nindent 14 }}
        {{- end }}
      {{- with .values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
{{- end }}

{{/* The chart's variables, and extraEnv, which goes before them: server-side apply refuses one that stands twice. */}}
{{- define "commontrip.env" -}}
{{- $extra := list }}
{{- range .values.extraEnv }}{{ $extra = append $extra .name }}{{ end }}
{{- range include "commontrip.ownEnv" . | fromYamlArray }}
{{- if not (has .name $extra) }}
{{ toYaml (list .) }}
{{- end }}
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The pod's own name first: what follows is made of it. */}}
{{- define "commontrip.ownEnv" -}}
{{- $fields := dict "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" "POD_UID" "metadata.uid" }}
{{- range $variable, $field := set $fields "NODE_NAME" "spec.nodeName" -}}
- name: {{ $variable }}
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: {{ $field }}
{{ end -}}
- name: OTEL_SERVICE_NAME
  value: {{ .component }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ include "commontrip.resource" . | quote }}
{{- if eq .component "profile" }}
- name: PROFILE_REPLICA
  value: $(POD_NAME)
{{- end }}
{{- if include "commontrip.usesRedis" . }}
{{- include "commontrip.redis.env" .root }}
{{- end }}
{{- $token := .root.Values.auth.token }}
{{- if and $token.existingSecret (ne .component "gateway") }}
{{ include "commontrip.secretVariable" (list (ternary "AUTH_TOKEN" "PROFILE_AUTH_TOKEN" (eq .component "auth")) $token) }}
{{- end }}
{{- if and (eq .component "profile") .values.overrideToken.existingSecret }}
{{ include "commontrip.secretVariable" (list "PROFILE_OVERRIDE_TOKEN" .values.overrideToken) }}
{{- end }}
{{- end }}

{{/* Takes a list: the variable, and existingSecret and key. */}}
{{- define "commontrip.secretVariable" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ (index . 1).existingSecret }}
      key: {{ (index . 1).key }}
{{- end }}

{{/* Who sends telemetry. */}}
{{- define "commontrip.resource" -}}
{{- $said := dict
  "service.namespace" (include "commontrip.base" .root)
  "service.version" (.values.image.tag | default .root.Chart.AppVersion)
  "service.instance.id" (printf "$(POD_NAMESPACE).$(POD_NAME).%s" .component)
  "k8s.namespace.name" "$(POD_NAMESPACE)"
  "k8s.deployment.name" (include "commontrip.name" .)
  "k8s.pod.name" "$(POD_NAME)"
  "k8s.pod.uid" "$(POD_UID)"
  "k8s.node.name" "$(NODE_NAME)"
  "k8s.container.name" .component }}
{{- $pairs := list }}
{{- range $key, $value := merge (dict) .root.Values.telemetry.resourceAttributes $said }}
{{- $pairs = append $pairs (printf "%s=%s" $key $value) }}
{{- end }}
{{- join "," $pairs }}
{{- end }}

{{/* Seconds until the kubelet kills: the sleep, the drain, requests under way, 5 for the last telemetry, 5 of slack. */}}
{{- define "commontrip.gracePeriod" -}}
{{- with .Values.server -}}
{{- ceil (addf .preStopSeconds .drainSeconds .shutdownSeconds 5 5) | int -}}
{{- end }}
{{- end }}

{{/* Pod Security "restricted"; no value can loosen it. */}}
{{- define "commontrip.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.security.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.security.runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "commontrip.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: {{ .Values.security.readOnlyRootFilesystem }}
capabilities:
  drop: [ALL]
{{- end }}

{{/* Whether a component uses Redis: auth only for faults. */}}
{{- define "commontrip.usesRedis" -}}
{{- if or (eq .component "profile") (and (eq .component "auth") .root.Values.auth.faults.enabled) }}yes{{ end }}
{{- end }}

{{- define "commontrip.usesInnerRedis" -}}
{{- if and .root.Values.redis.enabled (include "commontrip.usesRedis" .) }}yes{{ end }}
{{- end }}

{{/* The Secret with the files for TLS to Redis, if the component needs them. */}}
{{- define "commontrip.redisFiles" -}}
{{- if and (not .root.Values.redis.enabled) (include "commontrip.usesRedis" .) }}{{ .root.Values.externalRedis.tls.existingSecret }}{{ end }}
{{- end }}
