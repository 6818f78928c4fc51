{{- define "llmbatch.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "llmbatch.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- /* 52 characters leave room for the longest suffix, and 63 are allowed. */ -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "llmbatch.serviceAccountName" -}}
{{- default (ternary (include "llmbatch.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "llmbatch.selectorLabels" -}}
app.kubernetes.io/name: {{ include "llmbatch.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "llmbatch.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "llmbatch.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: llmbatch
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* An image of `repository`, `tag` and `digest`; the tag defaults to the chart's appVersion. */ -}}
{{- define "llmbatch.image" -}}
{{- with .image -}}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.default .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /* The operator's settings. JSON, since YAML of Helm writes large numbers with an exponent. */ -}}
{{- define "llmbatch.settings" -}}
{{- $image := include "llmbatch.image" (dict "image" .Values.runtime.image "default" .Chart.AppVersion) }}
{{- $own := dict "operatorNamespace" .Release.Namespace "image" $image }}
{{- with .Values.runtime.image.pullPolicy }}{{ $_ := set $own "imagePullPolicy" . }}{{ end }}
{{- with .Values.runtime.imagePullSecrets }}{{ $_ := set $own "imagePullSecrets" . }}{{ end }}
{{- with .Values.signals }}{{ $_ := set $own "signals" . }}{{ end }}
{{- merge $own .Values.settings | toPrettyJson }}
{{- end }}

{{- /* What a job needs, in each namespace that is served. */ -}}
{{- define "llmbatch.jobRules" -}}
- apiGroups: [llmbatch.dev]
  resources: [llmbatchjobs]
  verbs: [get, list, watch]
- apiGroups: [llmbatch.dev]
  resources: [llmbatchjobs/status]
  verbs: [update]
# For blockOwnerDeletion, where the admission plugin OwnerReferencesPermissionEnforcement is on, as on OpenShift.
- apiGroups: [llmbatch.dev]
  resources: [llmbatchjobs/finalizers]
  verbs: [update]
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# By name: a job's own token, and the Secrets that its spec names. None can be listed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create]
- apiGroups: [""]
  resources: [configmaps, serviceaccounts]
  verbs: [get, create]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create]
{{- if ne .Values.settings.networkPolicy false }}
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
