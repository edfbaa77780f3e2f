{{/* Helm allows release names of 53 characters, so that every name made of this fits in 63. */}}
{{- define "operator.name" -}}
{{- contains "operator" .Release.Name | ternary .Release.Name (printf "%s-operator" (.Release.Name | trunc 44 | trimSuffix "-")) -}}
{{- end -}}

{{- define "operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "operator.name" .) -}}
{{- end -}}

{{- define "operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "operator.labels" -}}
{{ include "operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: deepseek
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The operator's image; a tag that is a digest is joined with "@". */}}
{{- define "operator.image" -}}
{{- $prefix := empty .Values.registry | ternary "" (printf "%s/" .Values.registry) -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- printf "%s%s%s%s" $prefix .Values.image.repository (hasPrefix "sha256:" $tag | ternary "@" ":") $tag -}}
{{- end -}}

{{/* A worker image: (list ROOT REFERENCE). Only the part after the last "/" can hold a tag: a
registry before it may have a port. */}}
{{- define "operator.workerImage" -}}
{{- $root := index . 0 -}}
{{- $reference := index . 1 -}}
{{- if $reference -}}
{{- $prefix := empty $root.Values.registry | ternary "" (printf "%s/" $root.Values.registry) -}}
{{- $versioned := regexMatch "[:@]" (splitList "/" $reference | last) -}}
{{- printf "%s%s%s" $prefix $reference ($versioned | ternary "" (printf ":%s" $root.Chart.AppVersion)) -}}
{{- end -}}
{{- end -}}

{{/* The settings file of the operator. */}}
{{- define "operator.settings" -}}
{{- $needed := addf .Values.drain.preStopS .Values.drain.drainS -}}
{{- if lt (float64 .Values.drain.graceS) $needed -}}
{{- fail (printf "drain.graceS is %v but must be at least preStopS + drainS = %v: otherwise running requests are cut off." .Values.drain.graceS $needed) -}}
{{- end -}}
{{- $images := dict -}}
{{- range $device, $reference := .Values.images -}}
{{- $_ := set $images $device (include "operator.workerImage" (list $ $reference)) -}}
{{- end -}}
{{- if not (hasKey $images .Values.defaultDevice) -}}
{{- fail (printf "defaultDevice is %s but images has no worker image for it: set images.%s." .Values.defaultDevice .Values.defaultDevice) -}}
{{- end -}}
{{- $settings := dict
  "namespaces" .Values.watchNamespaces
  "images" $images
  "torchImage" (include "operator.workerImage" (list . .Values.torchImage))
  "imagePullPolicy" .Values.workerImagePullPolicy
  "imagePullSecrets" .Values.workerImagePullSecrets
  "defaultDevice" .Values.defaultDevice
  "deviceResources" .Values.deviceResources
  "allowRandomWeights" .Values.allowRandomWeights
  "drain" .Values.drain
  "demandHoldS" .Values.demandHoldS
  "resyncS" .Values.resyncS
  "concurrency" .Values.concurrency
  "networkPolicies" .Values.networkPolicies
  "clusterDomain" .Values.clusterDomain
  "logLevel" .Values.logLevel
  "catalogFile" "/etc/deepseek-operator/catalog.yaml"
  "healthPort" 8080
  "metricsPort" 9090
-}}
{{- toYaml $settings -}}
{{- end -}}
