// Command tour runs AWS's SDK for Go against our control plane and a real Envoy: it creates everything, pages through
// it, calls it and deletes it. AWS's own variables give the SDK its address; GATEWAY_URL is Envoy's listener.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/apigateway"
	"github.com/aws/aws-sdk-go-v2/service/apigateway/types"
)

const deadline = time.Minute

var ctx = context.Background()

// must is for answers without which the tour cannot go on.
func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func check(holds bool, otherwise string, values ...any) {
	if !holds {
		log.Fatal(append([]any{otherwise + ": "}, values...)...)
	}
}

func step(text string) { fmt.Println(text) }

// call answers the status and the body of a GET through Envoy.
func call(host, path, key string) (int, string) {
	request := must(http.NewRequest(http.MethodGet, os.Getenv("GATEWAY_URL")+path, nil))
	request.Host = host
	if key != "" {
		request.Header.Set("x-api-key", key)
	}
	response := must(http.DefaultClient.Do(request))
	defer response.Body.Close()
	return response.StatusCode, string(must(io.ReadAll(response.Body)))
}

func until(holds func() bool, otherwise string) {
	for end := time.Now().Add(deadline); !holds(); time.Sleep(20 * time.Millisecond) {
		check(time.Now().Before(end), otherwise)
	}
}

func same(found []string, expected ...string) bool {
	sort.Strings(found)
	sort.Strings(expected)
	return strings.Join(found, " ") == strings.Join(expected, " ")
}

func main() {
	log.SetFlags(0)
	client := apigateway.NewFromConfig(must(config.LoadDefaultConfig(ctx)))

	// Create everything.
	api := must(client.CreateRestApi(ctx, &apigateway.CreateRestApiInput{Name: aws.String("Pets")}))
	pets := must(client.CreateResource(ctx, &apigateway.CreateResourceInput{
		RestApiId: api.Id, ParentId: api.RootResourceId, PathPart: aws.String("pets"),
	}))
	must(client.PutMethod(ctx, &apigateway.PutMethodInput{
		RestApiId: api.Id, ResourceId: pets.Id, HttpMethod: aws.String("GET"), AuthorizationType: aws.String("NONE"),
		ApiKeyRequired: true,
	}))
	must(client.PutMethodResponse(ctx, &apigateway.PutMethodResponseInput{
		RestApiId: api.Id, ResourceId: pets.Id, HttpMethod: aws.String("GET"), StatusCode: aws.String("200"),
	}))
	must(client.PutIntegration(ctx, &apigateway.PutIntegrationInput{
		RestApiId: api.Id, ResourceId: pets.Id, HttpMethod: aws.String("GET"), Type: types.IntegrationTypeMock,
		RequestTemplates: map[string]string{"application/json": `{"statusCode": 200}`},
	}))
	must(client.PutIntegrationResponse(ctx, &apigateway.PutIntegrationResponseInput{
		RestApiId: api.Id, ResourceId: pets.Id, HttpMethod: aws.String("GET"), StatusCode: aws.String("200"),
	}))
	deployment := must(client.CreateDeployment(ctx, &apigateway.CreateDeploymentInput{
		RestApiId: api.Id, StageName: aws.String("prod"),
	}))
	plan := must(client.CreateUsagePlan(ctx, &apigateway.CreateUsagePlanInput{
		Name:      aws.String("Silver"),
		ApiStages: []types.ApiStage{{ApiId: api.Id, Stage: aws.String("prod")}},
		Throttle:  &types.ThrottleSettings{RateLimit: 50, BurstLimit: 100},
		Quota:     &types.QuotaSettings{Limit: 2, Period: types.QuotaPeriodTypeMonth},
	}))
	var keys []*apigateway.CreateApiKeyOutput
	var ids []string
	for _, name := range []string{"acme", "bolt", "cork"} {
		key := must(client.CreateApiKey(ctx, &apigateway.CreateApiKeyInput{Name: aws.String(name), Enabled: true}))
		must(client.CreateUsagePlanKey(ctx, &apigateway.CreateUsagePlanKeyInput{
			UsagePlanId: plan.Id, KeyId: key.Id, KeyType: aws.String("API_KEY"),
		}))
		keys, ids = append(keys, key), append(ids, *key.Id)
	}
	domain := aws.String("api.go.example")
	must(client.CreateDomainName(ctx, &apigateway.CreateDomainNameInput{DomainName: domain}))
	must(client.CreateBasePathMapping(ctx, &apigateway.CreateBasePathMappingInput{
		DomainName: domain, BasePath: aws.String("v1"), RestApiId: api.Id, Stage: aws.String("prod"),
	}))
	step("created")

	// Page through it one by one.
	one := aws.Int32(1)
	var found []string
	for pages := apigateway.NewGetApiKeysPaginator(client, &apigateway.GetApiKeysInput{Limit: one}); pages.HasMorePages(); {
		page := must(pages.NextPage(ctx))
		check(len(page.Items) <= 1, "a page of one holds more")
		for _, item := range page.Items {
			found = append(found, *item.Id)
		}
	}
	check(same(found, ids...), "keys differ", found)
	found = nil
	members := &apigateway.GetUsagePlanKeysInput{UsagePlanId: plan.Id, Limit: one}
	for pages := apigateway.NewGetUsagePlanKeysPaginator(client, members); pages.HasMorePages(); {
		for _, item := range must(pages.NextPage(ctx)).Items {
			found = append(found, *item.Id)
		}
	}
	check(same(found, ids...), "the plan's keys differ", found)
	found = nil
	resources := &apigateway.GetResourcesInput{RestApiId: api.Id, Limit: one}
	for pages := apigateway.NewGetResourcesPaginator(client, resources); pages.HasMorePages(); {
		for _, item := range must(pages.NextPage(ctx)).Items {
			found = append(found, *item.Path)
		}
	}
	check(same(found, "/", "/pets"), "resources differ", found)
	check(must(client.GetRestApi(ctx, &apigateway.GetRestApiInput{RestApiId: api.Id})).CreatedDate != nil, "no date")
	step("paged")

	// A PATCH, and an error that the SDK knows by its type.
	changed := must(client.UpdateUsagePlan(ctx, &apigateway.UpdateUsagePlanInput{
		UsagePlanId: plan.Id,
		PatchOperations: []types.PatchOperation{
			{Op: types.OpReplace, Path: aws.String("/description"), Value: aws.String("two a month")},
		},
	}))
	check(aws.ToString(changed.Description) == "two a month", "the plan is not changed", changed.Description)
	var missing *types.NotFoundException
	_, err := client.GetUsagePlan(ctx, &apigateway.GetUsagePlanInput{UsagePlanId: aws.String("nothing")})
	check(errors.As(err, &missing), "a plan that is not there", err)
	step("changed")

	// Use it through Envoy: by the API's own host, then by the domain.
	host, value := *api.Id+".example.org", *keys[0].Value
	until(func() bool { status, _ := call(host, "/prod/pets", value); return status == 200 }, "the first call is not let in")
	status, _ := call(host, "/prod/pets", "")
	check(status == 403, "without a key", status)
	status, _ = call(*domain, "/v1/pets", value)
	check(status == 200, "by the domain", status)
	status, body := call(host, "/prod/pets", value)
	check(status == 429 && body == `{"message":"Limit Exceeded"}`, "over the quota", status, body)
	days := func(ago int) *string { return aws.String(time.Now().UTC().AddDate(0, 0, -ago).Format("2006-01-02")) }
	usage := must(client.GetUsage(ctx, &apigateway.GetUsageInput{
		UsagePlanId: plan.Id, StartDate: days(1), EndDate: days(0),
	}))
	rows, used := usage.Items[*keys[0].Id], int64(0)
	for _, row := range rows {
		used += row[0]
	}
	check(used == 2 && rows[len(rows)-1][1] == 0, "usage differs", rows)
	step("called")

	// Delete everything; nothing is left.
	must(client.DeleteBasePathMapping(ctx, &apigateway.DeleteBasePathMappingInput{
		DomainName: domain, BasePath: aws.String("v1"),
	}))
	must(client.DeleteDomainName(ctx, &apigateway.DeleteDomainNameInput{DomainName: domain}))
	for _, key := range keys {
		must(client.DeleteUsagePlanKey(ctx, &apigateway.DeleteUsagePlanKeyInput{UsagePlanId: plan.Id, KeyId: key.Id}))
		must(client.DeleteApiKey(ctx, &apigateway.DeleteApiKeyInput{ApiKey: key.Id}))
	}
	must(client.UpdateUsagePlan(ctx, &apigateway.UpdateUsagePlanInput{
		UsagePlanId: plan.Id,
		PatchOperations: []types.PatchOperation{
			{Op: types.OpRemove, Path: aws.String("/apiStages"), Value: aws.String(*api.Id + ":prod")},
		},
	}))
	must(client.DeleteUsagePlan(ctx, &apigateway.DeleteUsagePlanInput{UsagePlanId: plan.Id}))
	must(client.DeleteStage(ctx, &apigateway.DeleteStageInput{RestApiId: api.Id, StageName: aws.String("prod")}))
	must(client.DeleteDeployment(ctx, &apigateway.DeleteDeploymentInput{RestApiId: api.Id, DeploymentId: deployment.Id}))
	must(client.DeleteRestApi(ctx, &apigateway.DeleteRestApiInput{RestApiId: api.Id}))
	check(len(must(client.GetApiKeys(ctx, &apigateway.GetApiKeysInput{})).Items) == 0, "keys are left")
	check(len(must(client.GetUsagePlans(ctx, &apigateway.GetUsagePlansInput{})).Items) == 0, "plans are left")
	until(func() bool { status, _ := call(host, "/prod/pets", value); return status == 403 }, "a deleted API is still served")
	step("deleted")
}
